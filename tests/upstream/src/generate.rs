//! Invented patients and their records: the same for the same seed, with the bytes that careless tools change.
//!
//! Texts are written out by hand, not by a serializer: `1.00`, `\u00e9`, white space and deep nesting are the point.

mod clinical;
mod people;

use crate::rng::Rng;

/// Resources of `patients` patients, of twenty types, each with an id.
pub(crate) fn resources(patients: usize, seed: u64) -> Vec<String> {
    let mut rng = Rng::new(seed);
    let world = World::new(patients, seed);
    let mut texts = people::shared(&world);
    for number in 0..patients {
        texts.push(people::patient(&world, number, &mut rng));
        clinical::records(&world, number, &mut rng, &mut texts);
    }
    clinical::of_nobody(&world, &mut texts);
    texts.extend(groups(&world));
    texts
}

/// So many bare patients, and `Group/all` with them.
pub(crate) fn few_patients(count: usize) -> Vec<String> {
    let mut texts: Vec<String> =
        (0..count).map(|number| format!(r#"{{"resourceType":"Patient","id":"big-{number}","active":true}}"#)).collect();
    let members: Vec<String> = (0..count).map(|number| member(&format!("Patient/big-{number}"), "")).collect();
    texts.push(group("all", "person", &members));
    texts
}

/// What stands before and after the filler of large resource `number`.
pub(crate) fn big_around_filler(number: usize) -> (String, String) {
    let (kind, patient) = (number % 3, number % 3);
    let subject = format!(r#""subject":{{"reference":"Patient/big-{patient}"}}"#);
    match kind {
        0 => (
            format!(
                r#"{{"resourceType":"DocumentReference","id":"big-{number}","status":"current",{subject},"content":[{{"attachment":{{"contentType":"application/pdf","data":""#
            ),
            r#""}}]}"#.to_owned(),
        ),
        1 => (
            format!(r#"{{"resourceType":"Binary","id":"big-{number}","contentType":"application/pdf","data":""#),
            r#""}"#.to_owned(),
        ),
        _ => (
            format!(
                r#"{{"resourceType":"Observation","id":"big-{number}","status":"final",{subject},"code":{{"text":"waveform"}},"valueString":""#
            ),
            r#""}"#.to_owned(),
        ),
    }
}

/// A Group of what `members` (from [`member`]) are.
pub(crate) fn group(id: &str, kind: &str, members: &[String]) -> String {
    let listed = if members.is_empty() { String::new() } else { format!(r#","member":[{}]"#, members.join(",")) };
    format!(
        r#"{{"resourceType":"Group","id":"{id}","active":true,"type":"{kind}","actual":true,"name":"{id}"{listed}}}"#
    )
}

/// A member of a Group; `more` are further members of the JSON object, begun with a comma.
pub(crate) fn member(reference: &str, more: &str) -> String {
    format!(r#"{{"entity":{{"reference":"{reference}"}}{more}}}"#)
}

fn groups(world: &World) -> Vec<String> {
    let patient = |number: usize| format!("Patient/{}", world.patient(number));
    let members =
        |numbers: std::ops::Range<usize>| numbers.map(|number| member(&patient(number), "")).collect::<Vec<_>>();
    let endings = ["", r#","inactive":true"#, r#","period":{"start":"2019-01-01","end":"2020-01-01"}"#];
    let lapsed: Vec<String> =
        endings.iter().zip(0..world.patients).map(|(ending, number)| member(&patient(number), ending)).collect();
    let practitioners: Vec<String> =
        (0..world.teams()).map(|team| member(&format!("Practitioner/{}", world.id("dr", team)), "")).collect();
    let nested = [member("Group/first-half", ""), member("Group/lapsed", ""), member("Group/nested", "")];
    vec![
        group("all", "person", &members(0..world.patients)),
        group("first-half", "person", &members(0..world.patients.div_ceil(2))),
        group("empty", "person", &[]),
        group("lapsed", "person", &lapsed),
        group("nested", "person", &nested),
        group("practitioners", "practitioner", &practitioners),
    ]
}

/// Who and what there is, by number.
struct World {
    patients: usize,
    /// Makes the ids of one seed differ from those of another.
    mark: u64,
}

impl World {
    fn new(patients: usize, seed: u64) -> Self {
        Self { patients, mark: Rng::new(seed).next() & 0xfff }
    }

    /// The id of thing `number` of a kind.
    fn id(&self, kind: &str, number: usize) -> String {
        format!("{kind}-{:03x}-{number}", self.mark)
    }

    fn patient(&self, number: usize) -> String {
        self.id("p", number)
    }

    /// Ten patients share a practitioner with role, an organization and a location.
    fn teams(&self) -> usize {
        self.patients.div_ceil(10)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::params::Version;
    use crate::store::Incoming;

    #[test]
    fn every_generated_text_is_a_resource_with_an_id_of_its_own() {
        let texts = resources(25, 3);
        let mut names = BTreeSet::new();
        for text in &texts {
            let incoming = Incoming::parse(Version::R4, text).unwrap_or_else(|error| panic!("{error:#}: {text}"));
            let name = format!("{}/{}", incoming.resource_type(), incoming.id().expect("an id"));
            assert!(names.insert(name.clone()), "{name} twice");
        }
        let types: BTreeSet<&str> = names.iter().filter_map(|name| name.split('/').next()).collect();
        assert!(types.len() >= 20, "{types:?}");
        let observations = names.iter().filter(|name| name.starts_with("Observation/")).count();
        assert!((225..=300).contains(&observations), "about ten per patient: {observations}");
        assert_eq!(resources(25, 3), texts, "the same for the same seed");
        assert_ne!(resources(25, 4), texts);
    }

    #[test]
    fn references_lead_to_what_is_there() {
        let texts = resources(12, 1);
        let parsed: Vec<Value> = texts.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
        let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let names: BTreeSet<String> =
            parsed.iter().map(|value| format!("{}/{}", text(value, "resourceType"), text(value, "id"))).collect();
        for part in texts.iter().flat_map(|text| text.split(r#""reference":""#).skip(1)) {
            let target = part.split('"').next().unwrap_or_default();
            assert!(names.contains(target) || target.starts_with('#'), "{target} leads nowhere");
        }
    }

    #[test]
    fn the_bytes_that_careless_tools_change_are_there() {
        let all = resources(12, 1).join("\n");
        for bytes in ["1.00", r"\u00e9", r"\ud83d\ude00", "😀", r"\/", "[[[[", r#""\u0069d""#, " : "] {
            assert!(all.contains(bytes), "{bytes}");
        }
    }
}
