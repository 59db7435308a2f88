//! Indents JSON as it passes by, piece after piece: white space changes, tokens do not.

/// What lies before the next byte.
#[derive(Debug, Default)]
pub(crate) struct Pretty {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// An object or array has begun and nothing of it was seen yet.
    opened: bool,
}

impl Pretty {
    /// Indents the next piece of a document into `out`.
    pub(crate) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for &byte in piece {
            if self.in_string {
                out.push(byte);
                self.in_string = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
                continue;
            }
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {}
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if !std::mem::take(&mut self.opened) {
                        self.new_line(out);
                    }
                    out.push(byte);
                }
                b',' => {
                    out.push(byte);
                    self.new_line(out);
                }
                b':' => out.extend_from_slice(b": "),
                _ => {
                    if std::mem::take(&mut self.opened) {
                        self.new_line(out);
                    }
                    out.push(byte);
                    self.in_string = byte == b'"';
                    if matches!(byte, b'{' | b'[') {
                        self.depth += 1;
                        self.opened = true;
                    }
                }
            }
        }
    }

    fn new_line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.resize(out.len() + 2 * self.depth, b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_wherever_the_pieces_are_cut() {
        let compact = r#"{"a":[1.00,{"b":"x, {\"y\\"}],"e":{},"f":[ ]}"#;
        let expected = "{\n  \"a\": [\n    1.00,\n    {\n      \"b\": \"x, {\\\"y\\\\\"\n    }\n  ],\n  \"e\": {},\n  \"f\": []\n}";
        for cut in 0..compact.len() {
            let (mut pretty, mut out) = (Pretty::default(), Vec::new());
            pretty.push(&compact.as_bytes()[..cut], &mut out);
            pretty.push(&compact.as_bytes()[cut..], &mut out);
            assert_eq!(String::from_utf8(out).as_deref(), Ok(expected), "cut at {cut}");
        }
    }
}
