//! What may stand in a filter, and that nothing else is ever sent.

use super::*;

fn parse(text: &str) -> Result<TypeFilter, FilterError> {
    TypeFilter::parse(text, Escapes::Once)
}

fn sent(filter: &Filter) -> String {
    filter.narrow(SearchQuery::new(ResourceType::PATIENT)).to_query()
}

/// BD-036, BD-037, DS-005; spec 2.4.2
#[test]
fn a_filter_is_a_type_and_parameters_that_all_have_to_hold() {
    for (text, expected) in [
        ("Patient?gender=male", "gender=male"),
        ("Observation?status=final&category=laboratory", "category=laboratory&status=final"),
        ("Observation?category=a,b", "category=a,b"),
        ("Observation?date=ge2020-01-01&date=lt2021-01-01", "date=ge2020-01-01&date=lt2021-01-01"),
        ("Observation?code=http://loinc.org|718-7", "code=http://loinc.org%7C718-7"),
        ("Observation?code=http%3A%2F%2Floinc.org%7C718-7", "code=http://loinc.org%7C718-7"),
        ("Observation?code=a&code=a", "code=a"),
        ("Observation?code=a%26b%3Dc", "code=a%26b%3Dc"),
        ("Observation?value-string=a=b", "value-string=a%3Db"),
        (r"Observation?code=a\,b", "code=a%5C,b"),
        ("Observation?_tag=x", "_tag=x"),
        ("Patient?family=%C3%A9", "family=%C3%A9"),
        ("Observation?date=ge2020-01-01T00:00:00+01:00", "date=ge2020-01-01T00:00:00%2B01:00"),
    ] {
        assert_eq!(parse(text).map(|parsed| sent(&parsed.filter)).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_no_filter_is_refused_by_its_name() {
    let name = |name: &str| name.to_owned();
    for (text, expected) in [
        ("", FilterError::NoType),
        ("Patient", FilterError::NoType),
        ("gender=male", FilterError::NoType),
        ("?gender=male", FilterError::UnknownType(String::new())),
        ("patient?gender=male", FilterError::UnknownType(name("patient"))),
        ("Dragon?gender=male", FilterError::UnknownType(name("Dragon"))),
        ("*?gender=male", FilterError::UnknownType(name("*"))),
        ("Patient/1/Observation?code=a", FilterError::UnknownType(name("Patient/1/Observation"))),
        ("Patient?", FilterError::Shape),
        ("Patient?gender", FilterError::Shape),
        ("Patient?gender=", FilterError::Empty(name("gender"))),
        ("Patient?gender=%20", FilterError::Empty(name("gender"))),
        ("Patient?family=Smith,", FilterError::Empty(name("family"))),
        ("Observation?code=|", FilterError::Empty(name("code"))),
        ("Patient?=male", FilterError::Shape),
        ("Patient?gender=male&", FilterError::Shape),
        ("Patient?&gender=male", FilterError::Shape),
        ("Patient?gen der=male", FilterError::Characters),
        ("Patient?gen%26der=male", FilterError::Characters),
        ("Patient?gender=ma%0Ale", FilterError::Characters),
        ("Patient?gender=%zz", FilterError::Escape),
        ("Patient?gender=%2", FilterError::Escape),
        ("Patient?gender=%FF", FilterError::Escape),
        ("Patient?gender:not=male", FilterError::Modifier(name("gender:not"))),
        ("Patient?gender%3Anot=male", FilterError::Modifier(name("gender:not"))),
        ("Observation?subject.name=a", FilterError::Chain(name("subject.name"))),
        ("Observation?subject:Patient.name=a", FilterError::Chain(name("subject:Patient.name"))),
    ] {
        assert_eq!(parse(text), Err(expected), "{text}");
    }
    for special in [
        "_has:Observation:patient:code",
        "_filter",
        "_query",
        "_list",
        "_text",
        "_content",
        "_sort",
        "_count",
        "_include",
        "_revinclude",
        "_summary",
        "_elements",
        "_total",
        "_contained",
        "_containedType",
        "_lastUpdated",
        "_id",
        "_type",
        "_format",
        "_pretty",
        "_offset",
        "_getpages",
        "_cursor",
        "_maxresults",
        "_score",
        "_in",
        "_language",
        "_tag:not",
    ] {
        let text = format!("Observation?code=a&{special}=b");
        let expected = FilterError::NotAFilter(special.to_owned());
        assert_eq!(parse(&text), Err(expected), "{special}");
    }
    let many = |count| (0..count).map(|number| format!("code=c{number}")).collect::<Vec<_>>().join("&");
    assert!(parse(&format!("Observation?{}", many(MOST_PARAMETERS))).is_ok());
    assert_eq!(parse(&format!("Observation?{}", many(MOST_PARAMETERS + 1))), Err(FilterError::TooLong));
    assert_eq!(parse(&format!("Observation?code={}", "x".repeat(MOST_BYTES))), Err(FilterError::TooLong));
    assert_eq!(parse(&format!("Observation?code={}", "é".repeat(MOST_BYTES / 5))), Err(FilterError::TooLong));
}

/// Spec 2.4.2, item 9; interop 5; SEC-21
#[test]
fn a_comma_begins_a_filter_only_before_a_type_and_is_unescaped_once_more() {
    let list = |text: &str| {
        let filters = TypeFilter::parse_list(text, Escapes::CommasOnly);
        filters.map(|filters| filters.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    for (text, expected) in [
        ("Patient?gender=male", vec!["Patient?gender=male"]),
        ("Patient?gender=male,Observation?code=a", vec!["Patient?gender=male", "Observation?code=a"]),
        ("Observation?code=a,b,Patient?gender=male", vec!["Observation?code=a,b", "Patient?gender=male"]),
        ("Observation?code=a%2Cb", vec!["Observation?code=a,b"]),
        ("Observation?code=a%2cPatient?gender=x", vec!["Observation?code=a,Patient?gender=x"]),
        (r"Observation?code=a\,Patient?b", vec!["Observation?code=a%5C,Patient?b"]),
        (r"Observation?code=a\\,Patient?gender=x", vec!["Observation?code=a%5C%5C", "Patient?gender=x"]),
        ("Observation?code=a,b?c", vec!["Observation?code=a,b?c"]),
        ("Observation?code=100%", vec!["Observation?code=100%25"]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(list(text), Ok(expected), "{text}");
    }
    for (text, expected) in [
        ("Observation?code=a%7Cb", FilterError::Escape),
        ("Observation?code=a%252Cb", FilterError::Escape),
        ("Observation?code=a%26_count%3D1", FilterError::Escape),
        ("Observation?code=a,Dragon?gender=x", FilterError::UnknownType("Dragon".to_owned())),
        ("Observation?code=a,Patient?", FilterError::Shape),
    ] {
        assert_eq!(list(text), Err(expected), "{text}");
    }
    let many = vec!["Patient?gender=male"; MOST_FILTERS + 1].join(",");
    assert_eq!(list(&many), Err(FilterError::TooLong));
}

#[test]
fn what_two_let_pass_is_what_both_ask_for() {
    let of = |text: &str| parse(text).expect("a filter").filter;
    let (laboratory, final_ones) = (of("Observation?category=laboratory"), of("Observation?status=final"));
    let both = laboratory.and(&final_ones).expect("it is short");
    assert_eq!(both, of("Observation?status=final&category=laboratory"));
    assert_eq!(laboratory.and(&laboratory).as_ref(), Ok(&laboratory));
    assert_eq!(laboratory.and(&Filter::ALL).as_ref(), Ok(&laboratory));
    assert!(Filter::ALL.is_all() && !laboratory.is_all());
    assert!(laboratory.is_as_wide_as(&both) && Filter::ALL.is_as_wide_as(&laboratory) && both.is_as_wide_as(&both));
    assert!(!both.is_as_wide_as(&laboratory) && !laboratory.is_as_wide_as(&Filter::ALL));
    assert!(!laboratory.is_as_wide_as(&final_ones));
    let other = of("Observation?category=vital-signs");
    assert_eq!(sent(&laboratory.and(&other).expect("it is short")), "category=laboratory&category=vital-signs");
    let long = of(&format!("Observation?code={}", "x".repeat(MOST_BYTES - 10)));
    assert_eq!(long.and(&laboratory), Err(FilterError::TooLong));
}

#[test]
fn a_filter_is_recorded_as_it_is_read_and_never_shown() {
    let filter = parse("Patient?family=%C3%A9%22%5C%25&identifier=s|1").expect("a filter");
    let json = serde_json::to_string(&filter).expect("plain values");
    assert_eq!(json, r#""Patient?family=%C3%A9%22%5C%25&identifier=s|1""#);
    assert_eq!(serde_json::from_str::<TypeFilter>(&json).expect("as it was written"), filter);
    assert_eq!(serde_json::from_str::<Filter>(r#""""#).expect("everything"), Filter::ALL);
    assert_eq!(format!("{filter:?}"), "TypeFilter { resource_type: Patient, filter: Filter(by family, identifier) }");
}

/// No text at all panics, and whatever is sent has a name that may be used and is the same when it is read once more.
#[test]
fn whatever_is_sent_may_be_sent() {
    const PIECES: [&str; 30] = [
        "Observation",
        "Patient",
        "Dragon",
        "?",
        "?",
        "&",
        "=",
        "=",
        ",",
        "%2C",
        "%2c",
        "%26",
        "%3D",
        "%",
        "%zz",
        "\\",
        "_count",
        "_has:",
        "_tag",
        ":not",
        ".name",
        "code",
        "gender",
        "a|b",
        "é",
        "\u{0}",
        " ",
        "+",
        "#",
        "$",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("it is below")
    };
    let mut read = 0;
    for number in 0..60_000 {
        // Half of them begin well.
        let mut text = String::from(if number % 2 == 0 { "Observation?code=" } else { "" });
        for _ in 0..next(12) {
            text.push_str(PIECES[next(PIECES.len())]);
        }
        for escapes in [Escapes::Once, Escapes::CommasOnly] {
            let Ok(filters) = TypeFilter::parse_list(&text, escapes) else { continue };
            read += 1;
            for filter in filters {
                for pair in sent(&filter.filter).split('&') {
                    let (name, value) = pair.split_once('=').expect("a name and a value");
                    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
                    assert!(is_plain && !name.is_empty(), "{text}: {name}");
                    assert!(!name.starts_with('_') || OF_ALL_TYPES.contains(&name), "{text}: {name}");
                    assert!(!value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic()), "{text}: {value}");
                    assert!(!value.contains(['&', '=', '#', '+', '?']), "{text}: {value}");
                }
                assert_eq!(parse(&filter.to_string()).as_ref(), Ok(&filter), "{text}");
            }
        }
    }
    assert!(read > 1_000, "only {read} were filters");
}

/// Neither what it takes nor how long it takes is up to whoever sends it.
#[test]
fn a_list_is_bounded_before_it_is_read() {
    let commas = |many: usize| TypeFilter::parse_list(&",".repeat(many), Escapes::CommasOnly);
    assert_eq!(commas(100_000), Err(FilterError::NoType));
    assert_eq!(commas(MOST_FILTERS * LONGEST_TEXT + 1), Err(FilterError::TooLong));
    assert_eq!(values(r"a,b\,c,,d"), ["a", r"b\,c", "", "d"]);
}
