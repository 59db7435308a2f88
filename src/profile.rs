//! Profile: what the server really does, and the strategy that it allows.

mod found;
mod preset;
mod searches;

use serde::{Deserialize, Serialize};

pub(crate) use found::{ByPatient, Findings, Found, Line, ProfileKey, Software};
pub use preset::PresetChoice;
pub(crate) use preset::PresetName;
pub(crate) use searches::Narrowing;
pub use searches::Searches;

/// What was found out about the upstream, by asking it and not by its name. Everything unproven is `false`, `None` or
/// absent, so that a server that could not be asked is read in the most careful way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each was found or not, whatever the others are")]
pub(crate) struct Profile {
    /// How finely `_lastUpdated` filters, if it does.
    pub(crate) last_updated: TimeFilter,
    /// `_sort=_lastUpdated` was obeyed in both directions.
    pub(crate) sort: bool,
    /// How to have resources counted apart from a page.
    pub(crate) counts: Option<CountMethod>,
    /// A page's own `total` is exact whatever the page holds, at least where it is asked for in this way.
    pub(crate) page_total: Option<PageTotal>,
    pub(crate) links: NextLinks,
    /// The most resources that a page was seen to hold when more were asked for.
    pub(crate) page_most: Option<u32>,
    /// How a patient is named in a search.
    pub(crate) patients: PatientForm,
    /// Several patients in one search find what each of them finds alone.
    pub(crate) or_lists: bool,
    /// Several ids in one search find all of them.
    pub(crate) id_lists: bool,
    /// The most bytes of a list of patients in a URL, where it is fewer than servers usually take.
    #[serde(default)]
    pub(crate) url_most_bytes: Option<u32>,
    /// A search by POST, with a longer list in its form, finds the same.
    #[serde(default)]
    pub(crate) post: bool,
    /// Whether the server gives the records of patients by `$everything`; `None` where nobody knows.
    #[serde(default)]
    pub(crate) everything: Option<bool>,
    /// Whether it tells what was changed and deleted by `_history` of a type; `None` where nobody knows.
    #[serde(default)]
    pub(crate) history: Option<bool>,
    /// What `Prefer: handling=strict` does to a search.
    #[serde(default)]
    pub(crate) strict: StrictHandling,
    /// Answers come compressed.
    #[serde(default)]
    pub(crate) gzip: bool,
    /// What connections speak.
    #[serde(default)]
    pub(crate) protocol: Protocol,
    /// What lies in the Patient compartment can be searched with a patient only. No probe says so beforehand.
    #[serde(default)]
    pub(crate) patient_required: bool,
    /// What has to be asked for beside the patient.
    #[serde(default)]
    pub(crate) searches: Searches,
}

/// How finely a server tells times apart. A window was found to hold what it should at both its edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeFilter {
    /// Not at all, or in a way that cannot be relied on.
    #[default]
    None,
    /// Whole seconds.
    Second,
    /// Milliseconds.
    Millisecond,
}

/// What `next` links point into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NextLinks {
    /// None was seen yet: taken for the worst.
    #[default]
    Unknown,
    /// Offsets into a list that is made anew for each page: a row that leaves shifts all later ones.
    Offsets,
    /// A list that the server keeps, or the place after the last row.
    Stable,
}

/// A way to have a server count that was seen to give the right number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountMethod {
    /// `_summary=count`
    Summary,
    /// `_total=accurate` on a page of one
    Accurate,
}

/// How a page comes to carry an exact total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageTotal {
    /// Unasked.
    Always,
    /// With `_total=accurate`.
    OnRequest,
}

/// How a search has to name a patient to find anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatientForm {
    /// By the id alone, as most servers take it.
    #[default]
    Id,
    /// As `Patient/id`.
    Typed,
}

/// What `Prefer: handling=strict` does to a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrictHandling {
    /// A search that carries it is refused, so that none does.
    Refused,
    /// It does no harm, and nobody saw that it does any good.
    #[default]
    Accepted,
    /// A parameter that the server does not know is refused because of it, and not left out in silence.
    Enforced,
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2, as it is agreed upon with TLS.
    #[serde(rename = "h2")]
    Http2,
}

/// Lines of a profile that an operator knows better than a preset, or than anybody finds out by asking.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileOverrides {
    /// How finely `_lastUpdated` filters: `none`, `second` or `millisecond`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<TimeFilter>,
    /// Whether `_sort=_lastUpdated` is obeyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<bool>,
    /// How to have resources counted: `none`, `summary` or `accurate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<OrNone<CountMethod>>,
    /// When a page's own total is exact: `none`, `always` or `on_request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_total: Option<OrNone<PageTotal>>,
    /// What next links point into: `offsets` or `stable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<NextLinks>,
    /// The most resources on a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_most: Option<u32>,
    /// How a search names a patient: `id` or `typed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patients: Option<PatientForm>,
    /// Whether one search may name several patients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub or_lists: Option<bool>,
    /// Whether one search may name several ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_lists: Option<bool>,
    /// The most bytes of a list of patients in a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_most_bytes: Option<u32>,
    /// Whether longer lists are sent by POST.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post: Option<bool>,
    /// Whether `Patient/[id]/$everything` is asked for what no search reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub everything: Option<bool>,
    /// Whether `_history` is asked for what was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<bool>,
    /// What `Prefer: handling=strict` does: `refused` (then it is not sent), `accepted` or `enforced`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<StrictHandling>,
    /// Whether compressed answers are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gzip: Option<bool>,
    /// What connections speak: `http/1.1` keeps HTTP/2 from being agreed upon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Whether what lies in the Patient compartment can be searched with a patient only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient_required: Option<bool>,
    /// What has to be asked for beside the patient, by type: `Observation: [category=vital-signs, category=laboratory]`.
    /// An empty list says that a patient is enough.
    #[serde(skip_serializing_if = "Searches::is_empty")]
    pub searches: Searches,
}

/// A value, or the word `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OrNone<T> {
    /// The word `none`.
    None(NoneWord),
    /// The value.
    Some(T),
}

/// `none`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoneWord {
    /// `none`
    None,
}

impl<T> OrNone<T> {
    fn into_option(self) -> Option<T> {
        match self {
            Self::None(NoneWord::None) => None,
            Self::Some(value) => Some(value),
        }
    }
}

impl TimeFilter {
    /// The finest step between two bounds, in milliseconds.
    pub(crate) fn step_millis(self) -> i64 {
        match self {
            Self::None | Self::Millisecond => 1,
            Self::Second => 1_000,
        }
    }
}

impl Profile {
    /// Whether one page's total proves it: exact totals, and links that are no offsets (a server that pages by
    /// offsets has been seen to end a list early with a total that agrees).
    pub(crate) fn page_proves_itself(&self) -> bool {
        self.page_total.is_some() && self.links_are_stable()
    }

    /// Whether several pages of one search show each resource that stays in it.
    pub(crate) fn links_are_stable(&self) -> bool {
        match self.links {
            NextLinks::Stable => true,
            NextLinks::Unknown | NextLinks::Offsets => false,
        }
    }

    /// Notes how searches name patients, and what lists of them may be, if there may be any: bytes in a URL, and whether a
    /// form may hold more.
    pub(crate) fn note(&mut self, form: PatientForm, lists: Option<(Option<u32>, bool)>) {
        self.patients = form;
        self.or_lists = lists.is_some();
        self.url_most_bytes = lists.and_then(|(url_most_bytes, _)| url_most_bytes);
        self.post = lists.is_some_and(|(_, post)| post);
    }

    pub(crate) fn filters_by_time(&self) -> bool {
        match self.last_updated {
            TimeFilter::Second | TimeFilter::Millisecond => true,
            TimeFilter::None => false,
        }
    }

    /// What holds of this profile before a product of that preset, and then the lines that an operator knows better.
    pub(crate) fn known(self, preset: Option<PresetName>, overrides: &ProfileOverrides) -> Self {
        let restricted = match preset {
            Some(name) => name.preset().restrict(self),
            None => self,
        };
        restricted.overridden(overrides)
    }

    /// This profile with the lines that are known better. No `..` on any side: a new line does not compile until it can be
    /// overridden.
    fn overridden(self, known: &ProfileOverrides) -> Self {
        let ProfileOverrides {
            last_updated,
            sort,
            counts,
            page_total,
            links,
            page_most,
            patients,
            or_lists,
            id_lists,
            url_most_bytes,
            post,
            everything,
            history,
            strict,
            gzip,
            protocol,
            patient_required,
            searches,
        } = known;
        Self {
            last_updated: last_updated.unwrap_or(self.last_updated),
            sort: sort.unwrap_or(self.sort),
            counts: counts.map_or(self.counts, OrNone::into_option),
            page_total: page_total.map_or(self.page_total, OrNone::into_option),
            links: links.unwrap_or(self.links),
            page_most: page_most.or(self.page_most),
            patients: patients.unwrap_or(self.patients),
            or_lists: or_lists.unwrap_or(self.or_lists),
            id_lists: id_lists.unwrap_or(self.id_lists),
            url_most_bytes: url_most_bytes.or(self.url_most_bytes),
            post: post.unwrap_or(self.post),
            everything: everything.or(self.everything),
            history: history.or(self.history),
            strict: strict.unwrap_or(self.strict),
            gzip: gzip.unwrap_or(self.gzip),
            protocol: protocol.unwrap_or(self.protocol),
            patient_required: patient_required.unwrap_or(self.patient_required),
            searches: self.searches.overridden(searches),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_can_take_away_and_add_what_was_found() {
        let found = Profile { counts: Some(CountMethod::Summary), sort: true, ..Profile::default() };
        let known = ProfileOverrides {
            counts: Some(OrNone::None(NoneWord::None)),
            links: Some(NextLinks::Stable),
            ..ProfileOverrides::default()
        };
        let profile = found.clone().known(None, &known);
        assert_eq!((profile.counts, profile.sort, profile.links), (None, true, NextLinks::Stable));
        let epic = PresetName::parse("epic");
        assert!(epic.is_some());
        let profile = found.known(epic, &ProfileOverrides { sort: Some(true), ..ProfileOverrides::default() });
        assert_eq!((profile.counts, profile.sort), (None, true), "an operator goes before a preset");
    }

    /// One value for every line, none of which is what nobody has found out.
    const EVERY_LINE: &str = r#"{"last_updated":"second","sort":true,"counts":"accurate","page_total":"on_request",
        "links":"offsets","page_most":77,"patients":"typed","or_lists":true,"id_lists":true,"url_most_bytes":123,
        "post":true,"everything":true,"history":true,"strict":"enforced","gzip":true,"protocol":"h2",
        "patient_required":true,"searches":{"Observation":["category=laboratory"]}}"#;

    fn lines(text: &str) -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_str(text).expect("an object")
    }

    fn of(profile: &Profile) -> serde_json::Map<String, serde_json::Value> {
        lines(&serde_json::to_string(profile).expect("plain values"))
    }

    #[test]
    fn every_line_can_be_overridden_alone_and_no_other_line_moves() {
        let found = of(&Profile::default());
        let given = lines(EVERY_LINE);
        let names = |lines: &serde_json::Map<_, _>| lines.keys().cloned().collect::<Vec<String>>();
        assert_eq!(names(&found), names(&given), "a line without an option, or an option without a line");
        for (name, value) in given {
            let one = serde_json::json!({ &*name: value });
            let known: ProfileOverrides = serde_json::from_value(one).expect("one line");
            let mut expected = found.clone();
            assert_ne!(expected.insert(name.clone(), value.clone()), Some(value), "{name}");
            assert_eq!(of(&Profile::default().known(None, &known)), expected, "{name}");
        }
        let unknown = serde_json::from_str::<ProfileOverrides>(r#"{"sorts":true}"#);
        assert!(
            unknown.is_err_and(|error| error.to_string().contains("sorts")),
            "a line that does not exist is refused"
        );
    }

    #[test]
    fn a_profile_of_before_there_were_some_lines_is_read() {
        let old = r#"{"last_updated":"second","sort":true,"counts":"summary","page_total":null,"links":"stable",
            "page_most":null,"patients":"id","or_lists":true,"id_lists":true}"#;
        let read: Profile = serde_json::from_str(old).expect("a plan of an older version");
        assert_eq!((read.history, read.strict, read.protocol), (None, StrictHandling::Accepted, Protocol::Http1));
    }
}
