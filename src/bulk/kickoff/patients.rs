//! The patients that a kick-off names: in the clear while they are asked for, sealed wherever they are kept (SEC-40).

use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Kickoff;
use crate::bulk::sealed::{JobKey, Part, Sealed, Unopened};
use crate::fhir::datatypes::Id;

/// Whom `patient` names. As JSON it is a list of ids, as all of them were kept once, or one text if they are sealed: neither
/// is ever taken for nobody or for everybody.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum NamedPatients {
    Clear(BTreeSet<Id>),
    Sealed(Sealed),
}

impl Kickoff {
    /// Leaves out whom it names, but not that it names somebody.
    pub(crate) fn leave_out_patients(&mut self) {
        if let Some(patients) = &mut self.patients {
            *patients = NamedPatients::Sealed(Sealed::left_out());
        }
    }

    /// Whether it can be kept without telling whom it names.
    pub(crate) fn tells_nobody(&self) -> bool {
        !matches!(self.patients, Some(NamedPatients::Clear(_)))
    }

    /// Whether somebody has to open it before it says whom it names.
    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self.patients, Some(NamedPatients::Sealed(_)))
    }

    /// The same with those sealed whom it names in the clear. The `nonce` is random.
    pub(crate) fn sealed(self, key: &JobKey, nonce: [u8; 12]) -> Self {
        let patients = self.patients.map(|patients| match patients {
            NamedPatients::Clear(ids) => {
                let json = serde_json::to_vec(&ids).expect("ids always become JSON");
                NamedPatients::Sealed(key.seal(Part::Patients, nonce, json))
            }
            sealed @ NamedPatients::Sealed(_) => sealed,
        });
        Self { patients, ..self }
    }

    /// The same in the clear.
    ///
    /// # Errors
    /// [`Unopened`] if the key does not open it.
    pub(crate) fn opened(self, key: &JobKey) -> Result<Self, Unopened> {
        let Some(NamedPatients::Sealed(sealed)) = &self.patients else { return Ok(self) };
        let json = key.open(Part::Patients, sealed)?;
        let ids = serde_json::from_slice(&json).map_err(|_| Unopened)?;
        Ok(Self { patients: Some(NamedPatients::Clear(ids)), ..self })
    }
}

impl fmt::Debug for NamedPatients {
    /// They are patient data: their number is enough.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear(ids) => write!(f, "NamedPatients({})", ids.len()),
            Self::Sealed(_) => f.write_str("NamedPatients(sealed)"),
        }
    }
}

impl Serialize for NamedPatients {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Clear(ids) => ids.serialize(serializer),
            Self::Sealed(sealed) => sealed.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for NamedPatients {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Kept;
        impl<'de> Visitor<'de> for Kept {
            type Value = NamedPatients;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("ids of patients, or what they are sealed as")
            }

            fn visit_str<E: Error>(self, sealed: &str) -> Result<Self::Value, E> {
                Sealed::deserialize(serde::de::value::StrDeserializer::new(sealed)).map(NamedPatients::Sealed)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, ids: A) -> Result<Self::Value, A::Error> {
                BTreeSet::deserialize(SeqAccessDeserializer::new(ids)).map(NamedPatients::Clear)
            }
        }
        deserializer.deserialize_any(Kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::job_id::JobId;
    use crate::bulk::kickoff::ExportLevel;

    fn naming(ids: &[&str]) -> Kickoff {
        let ids = ids.iter().map(|id| Id::parse(id).expect("an id")).collect();
        Kickoff { patients: Some(NamedPatients::Clear(ids)), ..Kickoff::of(ExportLevel::Patient) }
    }

    fn read(json: &str) -> Kickoff {
        serde_json::from_str(json).expect("it was written like this")
    }

    fn key(secret: u8) -> JobKey {
        JobKey::new(JobId::new([1; 16]), &[secret; 32])
    }

    #[test]
    fn what_is_kept_of_patients_that_are_named_tells_nobody_and_opens_to_the_same() {
        for ids in [&["p-one", "p-two"][..], &["p-one"], &[]] {
            let kickoff = naming(ids);
            assert!(!kickoff.tells_nobody());
            let kept = serde_json::to_string(&kickoff.clone().sealed(&key(1), [1; 12])).expect("JSON");
            assert!(ids.iter().all(|id| !kept.contains(id)), "{kept}");
            let kept = read(&kept);
            assert!(kept.tells_nobody() && kept.is_sealed() && kept.names_patients());
            assert_eq!(kept.clone().sealed(&key(2), [2; 12]), kept, "it is sealed once");
            assert_eq!(kept.clone().opened(&key(2)), Err(Unopened));
            assert_eq!(kept.opened(&key(1)), Ok(kickoff));
        }
        let all = Kickoff::of(ExportLevel::Patient);
        assert_eq!(all.clone().sealed(&key(1), [1; 12]), all, "nobody is named");
        assert_eq!(all.clone().opened(&key(1)), Ok(all));
    }

    /// Records of the version before are read: ids in the clear, or none at all.
    #[test]
    fn a_kick_off_from_before_patients_were_sealed_is_read() {
        let written =
            r#"{"level":"patient","types":null,"since":null,"until":null,"patients":["p-one","p-two"],"ignored":[]}"#;
        assert_eq!(read(written), naming(&["p-one", "p-two"]));
        assert_eq!(read(&written.replace(r#""patients":["p-one","p-two"],"#, "")), Kickoff::of(ExportLevel::Patient));
    }

    #[test]
    fn who_is_left_out_is_neither_nobody_nor_everybody() {
        let mut kickoff = naming(&["p-one"]);
        kickoff.leave_out_patients();
        let kept = read(&serde_json::to_string(&kickoff).expect("JSON"));
        assert_eq!(kept, kickoff);
        assert!(kept.names_patients());
        assert_eq!(kept.opened(&key(1)), Err(Unopened));
    }
}
