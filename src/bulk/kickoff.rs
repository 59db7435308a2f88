//! `Kickoff`: parameters and `Prefer` become a typed request, or a precise refusal.

mod associated;
mod elements;
mod error;
mod filter;
mod headers;
mod parameters;
mod patients;
mod prefer;
mod shape;

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde::{Deserialize, Serialize};

use super::shape::{Release, Shape, StatusForm};
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, Instant, LocalReference};
use crate::fhir::elements::Wanted;
use crate::fhir::filter::TypeFilter;
use crate::fhir::resource_type::ResourceType;
use crate::smart::policy::Level;
pub(crate) use associated::{Associated, AssociatedProvenance, Presets};
pub(crate) use error::KickoffError;
pub(crate) use filter::names_patients;
pub(crate) use headers::Headers;
use parameters::Parameter;
pub(crate) use patients::NamedPatients;
use shape::ShapeParameters;

/// What an export is asked of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExportLevel {
    System,
    Patient,
    Group(Id),
}

impl ExportLevel {
    /// Which one it is, whatever the Group.
    pub(crate) fn level(&self) -> Level {
        match self {
            Self::System => Level::System,
            Self::Patient => Level::Patient,
            Self::Group(_) => Level::Group,
        }
    }

    /// The Group that is asked for.
    pub(crate) fn group(&self) -> Option<&Id> {
        match self {
            Self::System | Self::Patient => None,
            Self::Group(id) => Some(id),
        }
    }
}

/// The export operation that is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) level: ExportLevel,
    pub(crate) release: Release,
}

impl From<ExportLevel> for Operation {
    /// `$export`.
    fn from(level: ExportLevel) -> Self {
        Self { level, release: Release::Three }
    }
}

/// A kick-off request that can be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kickoff {
    pub(crate) level: ExportLevel,
    /// `_type`; `None` is every type that the level allows.
    pub(crate) types: Option<BTreeSet<ResourceType>>,
    pub(crate) since: Option<Instant>,
    pub(crate) until: Option<Instant>,
    /// `patient`: nobody but these, of whom nobody need be there; `None` is everybody that the level allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) patients: Option<NamedPatients>,
    /// `_typeFilter`; those of one type are alternatives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) filters: Vec<TypeFilter>,
    /// `_elements`: what is wanted of each resource; `None` is all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) elements: Option<Wanted>,
    /// `includeAssociatedData`.
    #[serde(default, skip_serializing_if = "Associated::is_empty")]
    pub(crate) associated: Associated,
    /// Names of parameters that `handling=lenient` left out, each once.
    pub(crate) ignored: Vec<String>,
    #[serde(default)]
    pub(crate) shape: Shape,
}

/// Where each parameter stood, for refusals that come later than parsing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Places {
    types: BTreeMap<ResourceType, String>,
    /// Of each filter, in their order.
    filters: Vec<(ResourceType, String)>,
    /// Of each element, by its name.
    elements: BTreeMap<String, String>,
    largest: Option<String>,
    /// What was asked for by `includeAssociatedData`, which is settled once it is known who asks.
    associated: Vec<associated::Value>,
    /// `handling=lenient`
    is_lenient: bool,
}

/// SEC-22: what may be left out leniently, because it never narrows what is exported. `includeAssociatedData` is so value by
/// value.
const LENIENT: [&str; 1] = [shape::ORGANIZED];
/// Longest piece of a request that an answer repeats.
const LONGEST_ECHO: usize = 64;

impl Kickoff {
    /// Where files are not organized: leniently it is done without.
    ///
    /// # Errors
    /// [`KickoffError::NotOrganized`] if that was asked for.
    pub(crate) fn do_not_organize(&mut self, places: &Places) -> Result<(), KickoffError> {
        match self.shape.organized_by.take() {
            Some(_) if !places.is_lenient => Err(KickoffError::NotOrganized),
            Some(_) => {
                self.ignored.push(shape::ORGANIZED.to_owned());
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Everything at a level.
    pub(crate) fn of(level: ExportLevel) -> Self {
        let (filters, ignored, shape) = (Vec::new(), Vec::new(), Shape::default());
        let (types, patients, elements) = (None, None, None);
        let associated = Associated::default();
        Self { level, types, since: None, until: None, patients, filters, elements, associated, ignored, shape }
    }

    /// Whether it asks for the patients that it names, itself or by a Group, and for nobody else.
    pub(crate) fn names_patients(&self) -> bool {
        self.patients.is_some() || self.level.group().is_some()
    }

    /// The level at which it is read: what is organized by patient is read by patients, whoever asks for all of them.
    pub(crate) fn read_at(&self) -> Level {
        match self.level.level() {
            Level::System if self.shape.organized_by.is_some() => Level::Patient,
            level => level,
        }
    }

    /// Whether another one asks for the same at the same level, whatever the types, the times and what is left out of each
    /// resource. Those who are sealed in either are nobody's like.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        self.level == other.level && self.patients == other.patients && !self.is_sealed()
    }

    /// Reads a kick-off request; absolute references on `base` lead to this server.
    ///
    /// # Errors
    /// One for the first thing that is wrong; nothing that would narrow the export is ever passed over.
    pub(crate) fn parse(
        operation: impl Into<Operation>,
        method: &Method,
        query: Option<&str>,
        headers: &Headers,
        body: &[u8],
        base: &str,
        now: Instant,
    ) -> Result<(Self, Places), KickoffError> {
        let Operation { level, release } = operation.into();
        headers.check_accept()?;
        if !headers.prefers("respond-async", "") {
            return Err(KickoffError::NotAsync);
        }
        let lenient = headers.prefers("handling", "lenient");
        let mut parameters = parameters::from_query(query.unwrap_or_default())?;
        if !body.is_empty() {
            // A filter in a body that nobody reads would be passed over.
            if *method != Method::POST {
                return Err(KickoffError::BodyOfGet);
            }
            headers.check_content_type()?;
            let sent = parameters::from_body(body)?;
            if let (Some(first), false) = (parameters.first(), sent.is_empty()) {
                return Err(KickoffError::BothPlaces { location: first.location.clone() });
            }
            parameters.extend(sent);
        }
        let separate = headers.prefers("separate-export-status", "");
        let status = if separate { StatusForm::Separate } else { StatusForm::Plain };
        let shape = Shape { release, status, ..Shape::default() };
        let mut kickoff = Self { shape, ..Self::of(level) };
        let mut places = Places { is_lenient: lenient, ..Places::default() };
        let (mut since_at, mut until_at) = (String::new(), String::new());
        let (mut has_format, mut patients) = (false, None::<BTreeSet<Id>>);
        let mut of_shape = ShapeParameters::default();
        for parameter in parameters {
            match parameter.name.as_str() {
                "_type" => {
                    let named = types_of(&parameter, release)?;
                    let at = named.iter().map(|name| (*name, parameter.location.clone()));
                    places.types.extend(at);
                    kickoff.types.get_or_insert_default().extend(named);
                }
                "_since" => {
                    once(&mut kickoff.since, instant(&parameter, "_since")?, &parameter, "_since")?;
                    since_at = parameter.location;
                }
                "_until" => {
                    once(&mut kickoff.until, instant(&parameter, "_until")?, &parameter, "_until")?;
                    until_at = parameter.location;
                }
                "_typeFilter" => filter::read(&parameter, release, &mut kickoff.filters, &mut places.filters)?,
                "_elements" => elements::read(&parameter, release, &mut kickoff.elements, &mut places.elements)?,
                "_outputFormat" => {
                    if std::mem::replace(&mut has_format, true) {
                        return Err(KickoffError::Twice { location: parameter.location, name: "_outputFormat" });
                    }
                    check_format(&parameter)?;
                }
                "patient" => {
                    let patient = patient(&parameter, &kickoff.level, base)?;
                    patients.get_or_insert_default().insert(patient);
                }
                associated::NAME => associated::read(&parameter, release, &mut places.associated)?,
                _ if ShapeParameters::can_organize(&parameter) => of_shape.take(parameter)?,
                name if lenient && LENIENT.contains(&name) => {
                    if !kickoff.ignored.iter().any(|known| known == name) {
                        kickoff.ignored.push(parameter.name);
                    }
                }
                name if ShapeParameters::know(name) => of_shape.take(parameter)?,
                name => {
                    let name = echo(name);
                    return Err(KickoffError::Unsupported { location: parameter.location, name });
                }
            }
        }
        kickoff.patients = patients.map(NamedPatients::Clear);
        (kickoff.shape, places.largest) = of_shape.end(kickoff.shape)?;
        if kickoff.since.is_some_and(|since| since > now) {
            return Err(KickoffError::Future { location: since_at });
        }
        if let (Some(since), Some(until)) = (kickoff.since, kickoff.until)
            && until <= since
        {
            return Err(KickoffError::Order { location: until_at });
        }
        kickoff.check_filtered_types(&places)?;
        Ok((kickoff, places))
    }

    /// Whether files may be as small as they are asked to be: each costs us records, and everybody requests.
    ///
    /// # Errors
    /// [`KickoffError::SmallFiles`] if not even files of `least` bytes may be.
    pub(crate) fn check_sizes(&self, places: &Places, least: u64) -> Result<(), KickoffError> {
        match (self.shape.file_sizes.largest, &places.largest) {
            (Some(largest), Some(location)) if largest < least => {
                Err(KickoffError::SmallFiles { location: location.clone(), least })
            }
            _ => Ok(()),
        }
    }

    /// The types to export, of those that the upstream can be searched for. A Group has `members` of these types beside
    /// patients, whoever they are.
    ///
    /// # Errors
    /// [`KickoffError::NotExportable`] for a type that was named and is not among them;
    /// [`KickoffError::OutsideCompartment`] if all that was named never belongs to a patient; and what is wrong with
    /// `_elements`.
    pub(crate) fn resolve(
        &self,
        places: &Places,
        searchable: &BTreeSet<ResourceType>,
        compartments: Compartments,
        members: &dyn Fn(ResourceType) -> bool,
    ) -> Result<Vec<ResourceType>, KickoffError> {
        let wanted = match &self.types {
            None => searchable,
            Some(types) => match types.iter().find(|name| !searchable.contains(name)) {
                Some(name) => {
                    return Err(KickoffError::NotExportable { location: places.of(*name), name: *name });
                }
                None => types,
            },
        };
        let of_patients = |name: &ResourceType| compartments.hold(*name) && !name.left_out_of_patient_exports();
        let is_organized = self.shape.organized_by.is_some();
        let at_level = |name: &ResourceType| match self.level {
            ExportLevel::System => !is_organized || of_patients(name),
            ExportLevel::Patient => of_patients(name),
            ExportLevel::Group(_) => of_patients(name) || members(*name),
        };
        let mut types: BTreeSet<_> = wanted.iter().copied().filter(at_level).collect();
        match wanted.first() {
            Some(first) if types.is_empty() && self.types.is_some() => {
                Err(KickoffError::OutsideCompartment { location: places.of(*first) })
            }
            Some(_) | None => {
                types.extend(self.associated.all_types().filter(|name| searchable.contains(name) && at_level(name)));
                let types = Vec::from_iter(types);
                self.check_elements(places, &types, compartments)?;
                Ok(types)
            }
        }
    }
}

impl Places {
    fn of(&self, name: ResourceType) -> String {
        self.types.get(&name).cloned().unwrap_or_else(|| "http._type".to_owned())
    }
}

fn types_of(parameter: &Parameter, release: Release) -> Result<Vec<ResourceType>, KickoffError> {
    let list = values(parameter, "_type", release)?;
    let parse = |name: &str| {
        let unknown = || KickoffError::UnknownType { location: parameter.location.clone(), name: echo(name) };
        ResourceType::parse(name.trim()).ok_or_else(unknown)
    };
    list.map(parse).collect()
}

/// The values of a parameter that may have several: to 3.0 they can stand in one as a list.
fn values<'a>(
    parameter: &'a Parameter,
    name: &'static str,
    release: Release,
) -> Result<impl Iterator<Item = &'a str>, KickoffError> {
    let text = parameter.text(name)?;
    match release {
        Release::Four if text.contains(',') => Err(KickoffError::List { location: parameter.location.clone(), name }),
        Release::Three | Release::Four => Ok(text.split(',')),
    }
}

fn instant(parameter: &Parameter, name: &'static str) -> Result<Instant, KickoffError> {
    let text = parameter.text(name)?;
    let is_plain = text.is_ascii() && (parameter.is_from_query() || !text.contains(' '));
    let instant = Instant::parse(text).ok().filter(|_| is_plain);
    instant.ok_or_else(|| KickoffError::Instant { location: parameter.location.clone() })
}

/// A Reference is no primitive: it has no place in a query, and a patient's id has none either, as URLs are logged.
fn patient(parameter: &Parameter, level: &ExportLevel, base: &str) -> Result<Id, KickoffError> {
    let location = parameter.location.clone();
    if parameter.is_from_query() {
        return Err(KickoffError::PatientInQuery { location });
    }
    if *level == ExportLevel::System {
        return Err(KickoffError::PatientAtSystem { location });
    }
    let Some(text) = parameter.reference() else { return Err(KickoffError::Kind { location, name: "patient" }) };
    let target = LocalReference::parse_on(text, &[base]).filter(|_| !text.contains("/_history/"));
    let patient = target.filter(|target| target.resource_type == ResourceType::PATIENT);
    patient.map(|patient| patient.id).ok_or(KickoffError::NotAPatient { location })
}

fn check_format(parameter: &Parameter) -> Result<(), KickoffError> {
    let text = parameter.text("_outputFormat")?;
    // A `+` that was not escaped has become a space.
    let format = text.trim().replace(' ', "+").to_ascii_lowercase();
    match format.as_str() {
        "application/fhir+ndjson" | "application/ndjson" | "ndjson" => Ok(()),
        _ => Err(KickoffError::Format { location: parameter.location.clone() }),
    }
}

fn once<T>(slot: &mut Option<T>, value: T, parameter: &Parameter, name: &'static str) -> Result<(), KickoffError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(KickoffError::Twice { location: parameter.location.clone(), name }),
    }
}

/// A piece of a request as an answer may repeat it.
fn echo(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(LONGEST_ECHO).collect()
}

#[cfg(test)]
mod tests;
