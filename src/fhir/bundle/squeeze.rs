//! What white space stands between the tokens of JSON is taken out of it, where it lies.

use std::ops::Range;

use super::json::{Gap, NEAR, space, stops};

/// Moves what stands in `range`, which is JSON, together: all but the white space between its tokens. Gives the new end.
pub(super) fn squeeze(json: &mut [u8], range: Range<usize>) -> usize {
    // What stands between `from` and `read` is still to be moved.
    let (mut read, mut from, mut write) = (range.start, range.start, range.start);
    while read < range.end {
        match json[read] {
            b' ' | b'\t' | b'\r' | b'\n' => {
                write = move_down(json, from..read, write);
                read += space(&json[read..range.end]);
                from = read;
            }
            b'"' => read = end_of_string(json, read),
            _ => read += 1,
        }
    }
    move_down(json, from..read, write)
}

/// The same where it is known which white space there is.
pub(super) fn close(json: &mut [u8], range: Range<usize>, gaps: &[Gap]) -> usize {
    let (mut from, mut write) = (range.start, range.start);
    for Gap { start, end } in gaps {
        write = move_down(json, from..*start as usize, write);
        from = *end as usize;
    }
    move_down(json, from..range.end, write)
}

/// Moves a run to where it is to begin, which is no later than where it did. Gives where it ends then.
fn move_down(json: &mut [u8], run: Range<usize>, write: usize) -> usize {
    const SHORT: usize = 16;
    let end = write + run.len();
    // Nearly all are short: what stands behind one goes along, onto what has been moved before.
    if run.len() <= SHORT
        && write + SHORT <= run.end
        && let Some(short) = json.get(run.start..).and_then(|from| from.first_chunk::<SHORT>()).copied()
        && let Some(to) = json.get_mut(write..).and_then(|to| to.first_chunk_mut::<SHORT>())
    {
        *to = short;
    } else {
        json.copy_within(run, write);
    }
    end
}

/// Where the string ends that begins here.
fn end_of_string(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    let near = json.get(at..).unwrap_or_default().as_chunks().0;
    for eight in near.iter().take(NEAR / 8) {
        let word = u64::from_le_bytes(*eight);
        let stops = stops(word);
        if stops == 0 {
            at += 8;
            continue;
        }
        let ahead = stops.trailing_zeros() & !7;
        at += ahead as usize / 8;
        if (word >> ahead) & 0xff == u64::from(b'"') {
            return at + 1;
        }
        break;
    }
    loop {
        match memchr::memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
            None => return json.len(),
            Some(ahead) if json[at + ahead] == b'"' => return at + ahead + 1,
            Some(ahead) => at += ahead + 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::Cursor;
    use super::*;

    #[test]
    fn all_but_white_space_stays() {
        for (json, expected) in [
            (r#" { "a b" : [ 1 , "c\" d" ] } "#, r#"{"a b":[1,"c\" d"]}"#),
            ("{\n\t\"a\":\r\n  \"\\\\\"\n}", r#"{"a":"\\"}"#),
            ("{}", "{}"),
        ] {
            let mut bytes = [b"x ", json.as_bytes(), b" y"].concat();
            let end = squeeze(&mut bytes, 2..2 + json.len());
            assert_eq!(std::str::from_utf8(&bytes[2..end]), Ok(expected));
            assert!(bytes.ends_with(b" y"));
        }
    }

    /// Whatever the strings hold, and however far apart tokens are: what is left is what there was.
    #[test]
    fn what_is_moved_together_is_as_it_was() {
        for length in (0..24).chain(56..80) {
            for special in ["", "\\\"", "\\\\", "é", "\\\\\\\" ", " \\u0022"] {
                for place in [0, length / 2, length] {
                    let text = format!("\"{}{special}{}\"", " ".repeat(place), "b".repeat(length - place));
                    let mixed: String = "\n \r\t".chars().cycle().take(length % 7).collect();
                    let space = mixed + &" ".repeat(length);
                    let spaced = format!("{{{space}{text}{space}:{space}[{text},{space}-1.5e3{space}]{space}}}");
                    let mut bytes = format!("{spaced}{space}").into_bytes();
                    let mut cursor = Cursor::new(&bytes);
                    let first = cursor.note_gaps();
                    assert_eq!(cursor.skip(), Ok(0..spaced.len()), "{spaced:?}");
                    let gaps = first..cursor.gaps_noted().expect("they are few");
                    let gaps = cursor.into_gaps()[gaps].to_vec();
                    let mut closed = bytes.clone();
                    let end = close(&mut closed, 0..spaced.len(), &gaps);
                    assert_eq!(closed.get(spaced.len()..), bytes.get(spaced.len()..), "what is behind it stays");
                    closed.truncate(end);
                    let end = squeeze(&mut bytes, 0..spaced.len());
                    assert_eq!(bytes[..end], closed, "{spaced:?}");
                    let expected = format!("{{{text}:[{text},-1.5e3]}}");
                    assert_eq!(std::str::from_utf8(&bytes[..end]), Ok(&*expected), "{spaced:?}");
                    let mut cursor = Cursor::new(spaced.as_bytes());
                    assert_eq!(cursor.skip(), Ok(0..spaced.len()), "{spaced:?}");
                    assert_eq!(cursor.space(), spaced.len() - expected.len(), "{spaced:?}");
                }
            }
        }
    }
}
