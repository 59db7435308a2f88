use super::*;

fn scopes(text: &str) -> Scopes {
    Scopes::parse(text).expect("scopes")
}

fn name(text: &str) -> ResourceType {
    ResourceType::parse(text).expect("a type")
}

/// SM-024, SM-029, SM-030; interop 3
#[test]
fn what_is_granted_is_asked_for_and_registered() {
    for (registered, asked, granted) in [
        ("system/*.rs", "system/*.rs", "system/*.rs"),
        ("system/*.rs", "system/*.read", "system/*.read"),
        ("system/*.read", "system/*.rs", "system/*.rs"),
        ("system/*.rs", "system/*.*", "system/*.read"),
        ("system/*.cruds", "system/*.cruds", "system/*.rs"),
        ("system/*.rs", "system/Patient.rs", "system/Patient.rs"),
        ("system/*.rs", "system/Patient.r", "system/Patient.r"),
        ("system/Patient.rs", "system/*.rs", "system/Patient.rs"),
        ("system/Patient.rs system/Observation.r", "system/*.rs", "system/Patient.rs system/Observation.r"),
        ("system/Patient.r system/Patient.s", "system/Patient.read", "system/Patient.read"),
        ("system/Patient.r", "system/Patient.read", "system/Patient.r"),
        ("system/*.r system/Patient.s", "system/*.rs", "system/*.r system/Patient.rs"),
        ("system/*.rs", "system/Patient.read system/Observation.rs", "system/Patient.read system/Observation.rs"),
        ("system/*.rs", "system/Patient.rs system/Patient.rs", "system/Patient.rs"),
        ("system/*.rs", "system/Dragon.rs system/Patient.rs", "system/Patient.rs"),
        ("system/*.rs", "openid user/*.rs  system/Patient.rs", "system/Patient.rs"),
        ("system/*.rs", "system/Patient.rs?gender:not=male system/Group.rs", "system/Group.rs"),
        ("system/*.rs", "system/*.rs?_tag=a system/Group.rs", "system/Group.rs"),
        (
            "system/*.rs",
            "system/Patient.rs?gender=male system/Group.rs",
            "system/Patient.rs?gender=male system/Group.rs",
        ),
        (
            "system/*.rs",
            "system/Observation.rs?code=http://loinc.org|1-8",
            "system/Observation.rs?code=http://loinc.org|1-8",
        ),
        ("system/Patient.rs?gender=male", "system/*.rs", "system/Patient.rs?gender=male"),
        ("system/Patient.rs?gender=male", "system/Patient.read", "system/Patient.rs?gender=male"),
        ("system/Patient.rs?gender=male", "system/Patient.r", "system/Patient.r?gender=male"),
        ("system/Patient.rs?gender=male", "system/Patient.rs?gender=male", "system/Patient.rs?gender=male"),
        ("system/Patient.rs?gender=male", "system/Patient.rs?active=true", "system/Patient.rs?active=true&gender=male"),
        (
            "system/Patient.rs?gender=male system/Patient.rs?gender=other",
            "system/Patient.rs",
            "system/Patient.rs?gender=male system/Patient.rs?gender=other",
        ),
        ("system/Patient.rs?gender=male system/*.rs", "system/Patient.rs", "system/Patient.rs"),
        (
            "system/Patient.s?gender=male system/*.r",
            "system/Patient.rs",
            "system/Patient.r system/Patient.s?gender=male",
        ),
        ("system/Patient.rs", "system/Patient.rs system/Observation.rs", "system/Patient.rs"),
    ] {
        let answer = scopes(registered).grant(asked).map(|scopes| scopes.to_string());
        assert_eq!(answer.as_deref(), Ok(granted), "{asked} of {registered}");
    }
}

#[test]
fn where_nothing_is_left_nothing_is_granted() {
    for (registered, asked, expected) in [
        ("system/*.rs", "", ScopeError::Empty),
        ("system/*.rs", "   ", ScopeError::Empty),
        ("system/*.rs", "user/*.rs", ScopeError::Nothing),
        ("system/*.rs", "patient/*.read launch", ScopeError::Nothing),
        ("system/*.rs", "system/*.write", ScopeError::Nothing),
        ("system/*.rs", "system/Patient.cud", ScopeError::Nothing),
        ("system/*.rs", "system/Patient.sr", ScopeError::Nothing),
        ("system/*.rs", "system/Patient.rr", ScopeError::Nothing),
        ("system/*.rs", "system/Patient.reads", ScopeError::Nothing),
        ("system/*.rs", "system/Patient.", ScopeError::Nothing),
        ("system/*.rs", "system/Patient", ScopeError::Nothing),
        ("system/*.rs", "system/patient.rs", ScopeError::Nothing),
        ("system/*.rs", "System/Patient.rs", ScopeError::Nothing),
        ("system/*.rs", "system/Patient.rs?_count=1", ScopeError::Nothing),
        ("system/*.rs", "system/Patient.rs?", ScopeError::Nothing),
        ("system/Patient.rs?gender=male", "system/Observation.rs", ScopeError::Nothing),
        ("system/Patient.rs", "system/Observation.rs", ScopeError::Nothing),
        ("system/Patient.r", "system/Patient.s", ScopeError::Nothing),
        ("system/*.rs", "system/Patient.rs\n", ScopeError::Characters),
        ("system/*.rs", "system/\"Patient\".rs", ScopeError::Characters),
    ] {
        assert_eq!(scopes(registered).grant(asked), Err(expected), "{asked} of {registered}");
    }
    let many = "system/Patient.rs ".repeat(MOST + 1);
    assert_eq!(scopes("system/*.rs").grant(&many), Err(ScopeError::TooLong));
    let long = format!("system/Patient.rs {}", "x".repeat(4 * LONGEST));
    assert_eq!(scopes("system/*.rs").grant(&long), Err(ScopeError::TooLong));
}

#[test]
fn what_a_client_is_registered_for_is_understood_to_the_last_word() {
    for (text, expected) in [
        ("", ScopeError::Empty),
        ("system/*.rs user/*.rs", ScopeError::Foreign),
        ("system/Dragon.rs", ScopeError::Foreign),
        ("system/Observation.rs?category:not=laboratory", ScopeError::Filtered),
        ("system/*.rs?_tag=a", ScopeError::Filtered),
        ("system/*.cud", ScopeError::Nothing),
    ] {
        assert_eq!(Scopes::parse(text), Err(expected), "{text}");
    }
}

/// Spec 7.6, item 5: scopes add up, and one without a query takes in those with one.
#[test]
fn what_of_a_type_may_be_had_is_what_any_scope_lets_pass() {
    let of = |text: &str, name: &str| {
        let alternatives = scopes(text).alternatives(self::name(name));
        alternatives.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (text, patient) in [
        ("system/*.rs", vec![""]),
        ("system/Observation.rs", vec![]),
        ("system/Patient.rs?gender=male", vec!["gender=male"]),
        ("system/Patient.r?gender=male", vec![]),
        ("system/Patient.r?gender=male system/Patient.s?gender=male", vec![]),
        ("system/Patient.s?gender=male system/*.r", vec!["gender=male"]),
        ("system/Patient.rs?gender=male system/*.rs", vec![""]),
        ("system/Patient.rs?gender=male system/Patient.rs?gender=other", vec!["gender=male", "gender=other"]),
        ("system/Patient.rs?active=true&gender=male system/Patient.rs?gender=male", vec!["gender=male"]),
        ("system/Patient.rs?gender=male system/Patient.rs?active=true&gender=male", vec!["gender=male"]),
    ] {
        assert_eq!(of(text, "Patient"), patient, "{text}");
        assert_eq!(scopes(text).may_export(name("Patient")), !patient.is_empty(), "{text}");
    }
    let filters = |text: &str| vec![Filter::parse(text, Escapes::Once).expect("a filter")];
    for (text, filters, expected) in [
        ("system/Patient.rs", vec![Filter::ALL], true),
        ("system/Patient.rs", filters("gender=male"), true),
        ("system/Patient.rs?gender=male", vec![Filter::ALL], false),
        ("system/Patient.rs?gender=male", filters("gender=male"), true),
        ("system/Patient.rs?gender=male", filters("gender=male&active=true"), true),
        ("system/Patient.rs?gender=male", filters("gender=other"), false),
        ("system/Patient.rs?gender=male&active=true", filters("gender=male"), false),
        ("system/Patient.rs?gender=male", [filters("gender=male"), filters("gender=other")].concat(), false),
        ("system/Observation.rs", filters("gender=male"), false),
    ] {
        assert_eq!(scopes(text).cover(name("Patient"), &filters), expected, "{text} {filters:?}");
    }
    let hidden = scopes("system/Patient.rs?gender=male system/*.r").hiding(|_| "x".to_owned());
    assert_eq!(hidden.to_string(), "system/Patient.rs?gender=x system/*.r");
    assert!(!format!("{:?}", scopes("system/Patient.rs?gender=male")).contains("male"));
}

/// An export needs both letters (spec 7.6, item 4).
#[test]
fn an_export_needs_reading_and_searching() {
    for (text, patient, observation) in [
        ("system/*.rs", true, true),
        ("system/Patient.rs", true, false),
        ("system/Patient.r system/*.s", true, false),
        ("system/Patient.read", true, false),
        ("system/*.r", false, false),
    ] {
        let scopes = scopes(text);
        let may = (scopes.may_export(name("Patient")), scopes.may_export(name("Observation")));
        assert_eq!(may, (patient, observation), "{text}");
    }
}

#[test]
fn a_token_is_worth_no_more_than_its_client_now() {
    let token = scopes("system/*.rs");
    let both = token.and(&scopes("system/Patient.rs system/Group.r")).map(|both| both.to_string());
    assert_eq!(both.as_deref(), Some("system/Patient.rs system/Group.r"));
    assert_eq!(scopes("system/Group.rs").and(&scopes("system/Patient.rs")), None);
    // What was granted stays what it is as long as the client is registered for the same, however many there are.
    let many = |name: &str| {
        let words = (0..60).map(|number| format!("system/Observation.rs?{name}=http://loinc.org|{number}"));
        scopes(&words.collect::<Vec<_>>().join(" "))
    };
    let registered = many("code");
    let granted = registered.grant("system/*.rs").expect("they fit");
    assert_eq!(granted, registered);
    assert_eq!(granted.and(&registered), Some(granted.clone()));
    assert_eq!(granted.and(&many("category")), None, "each with each would be more than may be granted");
}

/// What is recorded with longer values than were granted is read again.
#[test]
fn what_we_have_written_ourselves_we_can_read() {
    let pairs: Vec<_> = "abcdefghijklmno".chars().map(|name| format!("{name}=1")).collect();
    let values = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']);
    let words = values.map(|value| format!("system/List.r?{}&p={value}", pairs.join("&")));
    let granted = scopes("system/*.rs").grant(&words.collect::<Vec<_>>().join(" ")).expect("they fit");
    let recorded = granted.hiding(|_| "0123456789abcdef".to_owned());
    assert!(recorded.to_string().len() > 4 * LONGEST, "longer than what anybody may send");
    let json = serde_json::to_string(&recorded).expect("a text");
    assert_eq!(serde_json::from_str::<Scopes>(&json).ok(), Some(recorded));
}

/// For every pair of scopes: granted ⊆ requested ∩ registered, by type and by action.
#[test]
fn nothing_is_ever_granted_beyond_both() {
    let words =
        ["system/*.rs", "system/*.r", "system/Patient.rs", "system/Patient.s", "system/Group.read", "system/*.*"];
    let sets = (1_u32..1 << words.len()).map(|set| {
        let chosen = words.iter().enumerate().filter(|(index, _)| set & (1 << index) != 0);
        chosen.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    });
    let sets: Vec<String> = sets.collect();
    for registered in &sets {
        for asked in &sets {
            let Ok(granted) = scopes(registered).grant(asked) else { continue };
            for name in [name("Patient"), name("Group"), name("Observation")] {
                for actions in [Actions::READ, Actions(2)] {
                    let in_both = scopes(registered).permit(name, actions) && scopes(asked).permit(name, actions);
                    assert_eq!(granted.permit(name, actions), in_both, "{name} {actions:?}: {asked} of {registered}");
                }
            }
        }
    }
}

/// BD-115: to make and to delete is granted of Group, by its name, to whoever is registered for it, and beside reading only.
#[test]
fn writing_is_granted_of_groups_alone() {
    for (registered, asked, granted) in [
        ("system/*.cruds", "system/Group.cruds", Some("system/Group.crds")),
        ("system/*.cruds", "system/*.cruds", Some("system/*.rs")),
        ("system/*.cruds", "system/Patient.cruds", Some("system/Patient.rs")),
        ("system/*.rs", "system/Group.cruds", Some("system/Group.rs")),
        ("system/*.rs system/Group.c", "system/Group.cruds", Some("system/Group.crs")),
        ("system/*.rs system/Group.write", "system/Group.write system/*.read", Some("system/Group.cd system/*.read")),
        ("system/*.cruds", "system/Group.cd", None),
        ("system/*.cruds", "system/Group.cruds?name=x", Some("system/Group.rs?name=x")),
    ] {
        let found = scopes(registered).grant(asked).ok().map(|granted| granted.to_string());
        assert_eq!(found.as_deref(), granted, "{registered} {asked}");
        if let Some(granted) = granted {
            let token = scopes(granted);
            assert_eq!(token.and(&scopes(registered)).as_ref(), Some(&token), "it is worth what it says");
            assert!(!token.reading().permit(ResourceType::GROUP, Actions::CREATE));
        }
    }
    let token = scopes("system/Group.crds");
    assert!(token.permit(ResourceType::GROUP, Actions::CREATE) && token.permit(ResourceType::GROUP, Actions::DELETE));
    let now = token.and(&scopes("system/Group.rs")).expect("reading");
    assert!(!now.permit(ResourceType::GROUP, Actions::CREATE), "SEC-14");
}
