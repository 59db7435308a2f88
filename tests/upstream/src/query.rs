//! Reads the parameters of a search.

use crate::answer::Refusal;
use crate::instant::Comparison;
use crate::paging::Position;
use crate::params::{self, Kind};
use crate::settings::{Order, Paging, Settings};

/// One search, understood.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    pub(crate) resource_type: String,
    /// All parameters as they came: links repeat them, the ignored ones too.
    pub(crate) pairs: Vec<(String, String)>,
    pub(crate) filters: Filters,
    pub(crate) order: Vec<SortKey>,
    /// Entries of this page.
    pub(crate) count: usize,
    /// Only the number is asked for.
    pub(crate) count_only: bool,
    /// The client asked for `_total=accurate` and is heard.
    pub(crate) accurate: bool,
    pub(crate) elements: Option<Vec<String>>,
    pub(crate) pretty: bool,
    pub(crate) offset: usize,
    pub(crate) cursor: Option<Position>,
}

/// What a resource must fulfil, all of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filters {
    /// One of these ids.
    pub(crate) ids: Option<Vec<String>>,
    /// Each of these comparisons of `lastUpdated`.
    pub(crate) times: Vec<Comparison>,
    /// Of each group at least one term.
    pub(crate) terms: Vec<Vec<String>>,
    /// None of these terms.
    pub(crate) without: Vec<String>,
}

/// One key of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SortKey {
    pub(crate) field: Field,
    pub(crate) descending: bool,
}

/// What can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    /// The order of creation.
    Inserted,
    LastUpdated,
    Id,
}

impl Search {
    /// Reads a search of `resource_type`. `types` are the ones that a reference without type may mean.
    ///
    /// # Errors
    /// 400 for unknown parameters (unless they begin with `_`), modifiers and values, as HAPI does.
    pub(crate) fn parse(
        resource_type: &str,
        pairs: Vec<(String, String)>,
        settings: &Settings,
        types: &[String],
    ) -> Result<Self, Refusal> {
        let mut search = Self {
            resource_type: resource_type.to_owned(),
            pairs: Vec::new(),
            filters: Filters::default(),
            order: Vec::new(),
            count: settings.default_count,
            count_only: false,
            accurate: false,
            elements: None,
            pretty: settings.pretty,
            offset: 0,
            cursor: None,
        };
        for (name, value) in &pairs {
            let bare = name.split_once(':').map_or(name.as_str(), |(bare, _)| bare);
            if !value.is_empty() && !settings.ignored_params.iter().any(|ignored| ignored == bare) {
                search.read(name, value, settings, types)?;
            }
        }
        if let Some(most) = settings.max_count {
            search.count = search.count.min(most);
        }
        search.count = search.count.max(1);
        if search.order.is_empty() {
            let newest_first = settings.order == Order::Own && settings.paging == Paging::Cursor;
            let field = match settings.order {
                Order::Own if newest_first => Field::LastUpdated,
                Order::Own => Field::Inserted,
                Order::LastUpdated => Field::LastUpdated,
                Order::Id => Field::Id,
            };
            search.order.push(SortKey { field, descending: newest_first });
        }
        if settings.no_last_updated {
            for key in &mut search.order {
                if key.field == Field::LastUpdated {
                    key.field = Field::Inserted;
                }
            }
        }
        if settings.require_patient
            && params::is_clinical(settings.version(), resource_type)
            && !search.names_a_patient()
        {
            return Err(Refusal::new(
                http::StatusCode::BAD_REQUEST,
                "required",
                "a required element is missing: patient, subject or _id",
            ));
        }
        if let Some(names) = settings.required_params.get(resource_type)
            && !pairs.iter().any(|(name, value)| !value.is_empty() && (name == "_id" || names.contains(name)))
        {
            let text = format!("a required element is missing: {}", names.join(" or "));
            return Err(Refusal::new(http::StatusCode::BAD_REQUEST, "required", text));
        }
        let is_list = |(name, value): &(String, String)| {
            matches!(params::kind_of(settings.version(), resource_type, name), Some(Kind::Reference))
                && value.contains(',')
        };
        if settings.one_patient && pairs.iter().any(is_list) {
            return Err(Refusal::invalid("more than one patient in a search"));
        }
        let closed = &settings.lies.closed_records;
        let is_closed = |(name, value): &(String, String)| {
            let names = matches!(params::kind_of(settings.version(), resource_type, name), Some(Kind::Reference));
            names && value.split(',').any(|id| closed.contains(id.trim_start_matches("Patient/")))
        };
        if !closed.is_empty() && pairs.iter().any(is_closed) {
            return Err(Refusal::new(http::StatusCode::FORBIDDEN, "forbidden", "the record is closed"));
        }
        search.pairs = pairs;
        Ok(search)
    }

    /// Whether it asks for a later page.
    pub(crate) fn is_later(&self) -> bool {
        self.offset > 0 || self.cursor.is_some()
    }

    fn names_a_patient(&self) -> bool {
        let is_patient = |term: &String| term.starts_with("patient=") || term.starts_with("subject=");
        self.filters.ids.is_some() || self.filters.terms.iter().any(|group| group.iter().any(is_patient))
    }

    fn read(&mut self, name: &str, value: &str, settings: &Settings, types: &[String]) -> Result<(), Refusal> {
        let bad = || Refusal::invalid(format!("invalid value of parameter {name}"));
        if settings.lies.finds_nothing.contains(name) {
            self.filters.ids = Some(Vec::new());
            return Ok(());
        }
        match name {
            "_count" => {
                let asked: usize = value.parse().map_err(|_| bad())?;
                match asked {
                    0 => self.count_only |= settings.counts,
                    asked => self.count = asked,
                }
            }
            "_summary" => self.count_only |= settings.counts && value == "count",
            "_total" => self.accurate = settings.accurate_total && value == "accurate",
            "_lastUpdated" if settings.no_last_updated => {}
            "_lastUpdated" => self.filters.times.push(Comparison::parse(value).ok_or_else(bad)?),
            "_sort" if settings.ignore_sort => {}
            "_sort" => self.order = value.split(',').map(SortKey::parse).collect::<Option<_>>().ok_or_else(bad)?,
            "_id" => {
                let asked: Vec<String> = value.split(',').map(str::to_owned).collect();
                match &mut self.filters.ids {
                    Some(ids) => ids.retain(|id| asked.contains(id)),
                    ids @ None => *ids = Some(asked),
                }
            }
            "_elements" => self.elements = Some(value.split(',').map(str::to_owned).collect()),
            "_pretty" => self.pretty = value == "true",
            _ if name == settings.offset_name && settings.paging == Paging::Offset => {
                self.offset = value.parse().map_err(|_| bad())?;
            }
            "_cursor" if settings.paging == Paging::Cursor => {
                self.cursor = Some(Position::decode(value).ok_or_else(|| Refusal::gone("unknown cursor"))?);
            }
            _ => self.read_filter(name, value, types, settings)?,
        }
        Ok(())
    }

    fn read_filter(&mut self, name: &str, value: &str, types: &[String], settings: &Settings) -> Result<(), Refusal> {
        let (bare, modifier) = name.split_once(':').map_or((name, None), |(bare, modifier)| (bare, Some(modifier)));
        let Some(param) = params::of(settings.version(), &self.resource_type).find(|param| param.name == bare) else {
            if name.starts_with('_') {
                return Ok(());
            }
            let text = format!("unknown search parameter \"{bare}\" for resource type \"{}\"", self.resource_type);
            return Err(Refusal::invalid(text));
        };
        let unknown_modifier = || Refusal::invalid(format!("unknown modifier of parameter {name}"));
        let mut group = Vec::new();
        for value in value.split(',') {
            match (param.kind, modifier) {
                (Kind::Token, None) => group.push(format!("{bare}={value}")),
                (Kind::Reference, None) if value.contains('/') => group.push(format!("{bare}={value}")),
                (Kind::Reference, None) if settings.lies.typed_references => group.push(format!("{bare}={value}")),
                (Kind::Reference, None) if bare == "patient" => group.push(format!("patient=Patient/{value}")),
                (Kind::Reference, None) => group.extend(types.iter().map(|target| format!("{bare}={target}/{value}"))),
                (Kind::Reference, Some("missing")) => match value {
                    "true" => self.filters.without.push(params::present(bare)),
                    _ => group.push(params::present(bare)),
                },
                (Kind::Reference, Some(target)) if types.iter().any(|known| known == target) => {
                    group.push(format!("{bare}={target}/{value}"));
                }
                (Kind::Token | Kind::Reference, Some(_)) => return Err(unknown_modifier()),
            }
        }
        if modifier != Some("missing") || !group.is_empty() {
            self.filters.terms.push(group);
        }
        Ok(())
    }
}

impl SortKey {
    fn parse(text: &str) -> Option<Self> {
        let (field, descending) = text.strip_prefix('-').map_or((text, false), |field| (field, true));
        let field = match field {
            "_lastUpdated" => Field::LastUpdated,
            "_id" => Field::Id,
            _ => return None,
        };
        Some(Self { field, descending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str, settings: &Settings) -> Result<Search, Refusal> {
        let pairs = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Search::parse("Observation", pairs, settings, &["Patient".to_owned(), "Device".to_owned()])
    }

    #[test]
    fn unknown_names_are_refused_unless_they_begin_with_an_underscore() {
        for (query, taken) in [
            ("foo=bar", false),
            ("_foo=bar", true),
            ("foo=", true),
            ("patient=a,Patient/b", true),
            ("patient:foo=a", false),
            ("subject:missing=true", true),
            ("subject:Device=d", true),
            ("_sort=_lastUpdated,-_id", true),
            ("_sort=date", false),
            ("_count=x", false),
            ("_lastUpdated=ap2026", false),
        ] {
            assert_eq!(parse(query, &Settings::default()).is_ok(), taken, "{query}");
        }
    }

    #[test]
    fn a_reference_without_type_may_mean_any_type() {
        let search = parse("subject=x,Device/y", &Settings::default()).expect("a search");
        assert_eq!(search.filters.terms, [["subject=Patient/x", "subject=Device/x", "subject=Device/y"]]);
    }

    #[test]
    fn a_lie_is_repeated_in_the_pairs_but_filters_nothing() {
        let settings = Settings { ignored_params: vec!["patient".to_owned()], ..Settings::default() };
        let search = parse("patient=x", &settings).expect("a search");
        assert!(search.filters.terms.is_empty());
        assert_eq!(search.pairs, [("patient".to_owned(), "x".to_owned())]);
    }

    #[test]
    fn a_clinical_search_must_name_a_patient_where_that_is_required() {
        let settings = Settings { require_patient: true, ..Settings::default() };
        for (query, taken) in
            [("", false), ("status=final", false), ("patient=a", true), ("subject=a", true), ("_id=a", true)]
        {
            assert_eq!(parse(query, &settings).is_ok(), taken, "{query}");
        }
    }

    #[test]
    fn more_than_a_patient_and_no_more_than_one_can_be_required() {
        let required = vec!["category".to_owned(), "code".to_owned()];
        let settings = Settings {
            require_patient: true,
            one_patient: true,
            required_params: [("Observation".to_owned(), required)].into(),
            ..Settings::default()
        };
        for (query, taken) in [
            ("patient=a", false),
            ("category=x", false),
            ("patient=a&category=", false),
            ("patient=a&category=x", true),
            ("patient=a&code=x,y", true),
            ("patient=a,b&category=x", false),
            ("_id=a,b", true),
        ] {
            assert_eq!(parse(query, &settings).is_ok(), taken, "{query}");
        }
    }

    #[test]
    fn counts_are_clamped_without_a_word() {
        let settings = Settings { max_count: Some(10), ..Settings::default() };
        for (query, expected) in [("_count=5", 5), ("_count=1000", 10), ("", 10)] {
            assert_eq!(parse(query, &settings).map(|search| search.count).ok(), Some(expected), "{query}");
        }
    }
}
