//! What a value of a filter has to be. A server that is lenient takes no notice of a value that it cannot read, and would send
//! everything.

use crate::fhir::capability::ParameterKind;

/// Prefixes of dates, numbers and quantities.
const PREFIXES: [&str; 9] = ["eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"];

/// Whether a value asks for anything: white space and bars do not.
pub(super) fn says_something(value: &str) -> bool {
    value.chars().any(|character| !character.is_whitespace() && character != '|')
}

/// Whether a value is one of its kind, by its form.
pub(super) fn fits(kind: ParameterKind, value: &str) -> bool {
    let of_prefix = PREFIXES.iter().find_map(|prefix| value.strip_prefix(prefix)).unwrap_or(value);
    match kind {
        ParameterKind::Date => is_date(of_prefix),
        ParameterKind::Number => is_number(of_prefix),
        ParameterKind::Quantity => is_number(of_prefix.split('|').next().unwrap_or_default()),
        ParameterKind::Token | ParameterKind::String | ParameterKind::Reference | ParameterKind::Uri => true,
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_made_of =
        digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'-' | b'+'));
    is_made_of && digits.starts_with(|first: char| first.is_ascii_digit()) && text.parse::<f64>().is_ok()
}

/// A year, a month, a day or a time, which may have a zone.
fn is_date(text: &str) -> bool {
    let (date, time) = text.split_once('T').map_or((text, None), |(date, time)| (date, Some(time)));
    let has_form = |text: &str, form: &str| {
        text.len() == form.len()
            && text.bytes().zip(form.bytes()).all(|(own, of_form)| match of_form {
                b'0' => own.is_ascii_digit(),
                other => own == other,
            })
    };
    let Some(time) = time else {
        return ["0000", "0000-00", "0000-00-00"].iter().any(|form| has_form(date, form));
    };
    let zone = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (clock, zone) = time.split_at(zone);
    let (clock, fraction) = clock.split_once('.').map_or((clock, None), |(clock, fraction)| (clock, Some(fraction)));
    has_form(date, "0000-00-00")
        && (has_form(clock, "00:00:00") || (fraction.is_none() && has_form(clock, "00:00")))
        && fraction
            .is_none_or(|digits| (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()))
        && (zone.is_empty() || zone == "Z" || has_form(zone, "+00:00") || has_form(zone, "-00:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_a_server_may_overlook_is_none() {
        for value in ["", " ", "|", " | ", "\u{a0}"] {
            assert!(!says_something(value), "{value:?}");
        }
        for value in ["a", "http://s|", "|c", "0"] {
            assert!(says_something(value), "{value}");
        }
        for date in [
            "2020",
            "ge2020-01",
            "lt2020-01-31",
            "2020-01-31T10:00",
            "sa2020-01-31T10:00:00.123Z",
            "ap2020-01-31T10:00:00+02:00",
        ] {
            assert!(fits(ParameterKind::Date, date), "{date}");
        }
        for date in [
            "nonsense",
            "20",
            "2020-1",
            "ge",
            "xx2020",
            "2020-01-31T",
            "2020T10:00",
            "2020-01-31T10:00:00.Z",
            "2020-01-31T10:00Zfoo",
        ] {
            assert!(!fits(ParameterKind::Date, date), "{date}");
        }
        for (number, is_one) in
            [("5", true), ("lt-5.4e-3", true), ("five", false), ("", false), ("inf", false), ("1e", false)]
        {
            assert_eq!(fits(ParameterKind::Number, number), is_one, "{number}");
            assert_eq!(
                fits(ParameterKind::Quantity, &format!("{number}|http://unitsofmeasure.org|mg")),
                is_one,
                "{number}"
            );
        }
        assert!(fits(ParameterKind::Token, "whatever"));
    }
}
