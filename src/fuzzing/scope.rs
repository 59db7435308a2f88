//! Scopes: what is granted is within what was asked for and within what the client is registered for.

use crate::fhir::resource_type::ResourceType;
use crate::smart::scope::{Actions, Scopes};

/// A line of what a client is registered for, and one of what it asks for.
pub(super) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (registered_text, asked) = text.split_once('\n').unwrap_or((text, "system/*.cruds"));
    let Ok(registered) = Scopes::parse(registered_text) else { return };
    let Ok(granted) = registered.grant(asked) else { return };
    for name in ["Patient", "Observation", "Group", "Device", "AllergyIntolerance"] {
        let resource_type = ResourceType::parse(name).expect("a type");
        for (scopes, what) in [(&granted, "asked for"), (&registered, "registered")] {
            let text = if what == "registered" { registered_text } else { asked };
            let reads = scopes.permit(resource_type, Actions::READ);
            let exports = scopes.may_export(resource_type);
            assert!(!reads || named(text, name, 'r'), "{name} may be read and is not {what}: {granted}");
            assert!(
                !exports || (named(text, name, 'r') && named(text, name, 's')),
                "{name} may be exported and is not {what}: {granted}"
            );
            let alternatives = granted.alternatives(resource_type);
            assert!(
                alternatives.is_empty() || scopes_of(text).is_none_or(|own| own.cover(resource_type, &alternatives)),
                "more of {name} may be had than is {what}: {granted}"
            );
        }
        for actions in [Actions::READ, Actions::EXPORT] {
            assert!(
                !granted.permit(resource_type, actions) || registered.permit(resource_type, actions),
                "{name}: {granted}"
            );
        }
        let now = granted.and(&registered);
        let may = |scopes: &Scopes| scopes.may_export(resource_type);
        assert_eq!(now.as_ref().is_some_and(may), may(&granted), "{name}: {granted}");
    }
    let told = Scopes::parse(&granted.to_string()).expect("what is granted is told in words that are understood");
    assert_eq!(told.to_string(), granted.to_string(), "what is granted is told as it is");
}

/// The scopes in a text, if every word of it is one.
fn scopes_of(text: &str) -> Option<Scopes> {
    Scopes::parse(text).ok()
}

/// Whether some word of a text could mean this letter for this type, read as generously as may be.
fn named(text: &str, name: &str, letter: char) -> bool {
    text.split(' ').any(|word| {
        let plain = word.split('?').next().unwrap_or_default();
        let Some((of, actions)) = plain.strip_prefix("system/").and_then(|rest| rest.split_once('.')) else {
            return false;
        };
        (of == "*" || of == name) && (matches!(actions, "read" | "*") || actions.contains(letter))
    })
}
