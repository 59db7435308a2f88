//! `OperationOutcome`, in as far as we say it and understand it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How bad an issue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IssueSeverity {
    Fatal,
    Error,
    Warning,
    Information,
}

macro_rules! issue_types {
    ($($name:ident $code:literal),* $(,)?) => {
        /// What kind of issue it is: the codes of FHIR R4.
        ///
        /// Source: <https://hl7.org/fhir/R4/valueset-issue-type.html>
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub(crate) enum IssueType {
            $(#[serde(rename = $code)] $name,)*
        }

        impl IssueType {
            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

issue_types! {
    Invalid "invalid", Structure "structure", Required "required", Value "value", Invariant "invariant",
    Security "security", Login "login", Unknown "unknown", Expired "expired", Forbidden "forbidden",
    Suppressed "suppressed", Processing "processing", NotSupported "not-supported", Duplicate "duplicate",
    MultipleMatches "multiple-matches", NotFound "not-found", Deleted "deleted", TooLong "too-long",
    CodeInvalid "code-invalid", Extension "extension", TooCostly "too-costly", BusinessRule "business-rule",
    Conflict "conflict", Transient "transient", LockError "lock-error", NoStore "no-store", Exception "exception",
    Timeout "timeout", Incomplete "incomplete", Throttled "throttled", Informational "informational",
}

/// What an upstream said: what may be kept of it and passed on. Its free text is not among it (SEC-41).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Issue {
    pub(crate) severity: IssueSeverity,
    pub(crate) code: IssueType,
    /// `details.coding`: system and code of the first one.
    pub(crate) coding: Option<(String, String)>,
}

impl fmt::Debug for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.severity, self.code.as_str())
    }
}

/// An `OperationOutcome` as others send it: whatever of it we do not know is passed over.
#[derive(Deserialize)]
struct ForeignOutcome<'a> {
    #[serde(borrow, default)]
    issue: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct ForeignIssue<'a> {
    severity: Option<String>,
    code: Option<String>,
    #[serde(borrow)]
    details: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ForeignDetails {
    #[serde(default)]
    coding: Option<Vec<ForeignCoding>>,
}

#[derive(Deserialize)]
struct ForeignCoding {
    system: Option<String>,
    code: Option<String>,
}

/// Longest system or code that is kept, in bytes, and most issues of one outcome.
const LONGEST_CODE: usize = 200;
const MOST_ISSUES: usize = 20;

impl Issue {
    /// Something went wrong, and it is not understood what.
    const UNKNOWN: Self = Self { severity: IssueSeverity::Error, code: IssueType::Processing, coding: None };

    /// What an `OperationOutcome` says, the gravest of it where it says much. What cannot be read is bad news.
    pub(crate) fn all_of(outcome: &[u8]) -> Vec<Self> {
        let Ok(ForeignOutcome { issue }) = serde_json::from_slice(outcome) else { return vec![Self::UNKNOWN] };
        let mut issues = Vec::new();
        for raw in issue {
            issues.push(serde_json::from_str(raw.get()).map_or(Self::UNKNOWN, ForeignIssue::known));
            if issues.len() == 2 * MOST_ISSUES {
                keep_the_gravest(&mut issues);
            }
        }
        keep_the_gravest(&mut issues);
        issues
    }
}

fn keep_the_gravest(issues: &mut Vec<Issue>) {
    if issues.len() > MOST_ISSUES {
        issues.sort_by_key(|issue| issue.severity);
        issues.truncate(MOST_ISSUES);
    }
}

impl ForeignIssue<'_> {
    fn known(self) -> Issue {
        fn read<T: serde::de::DeserializeOwned>(text: Option<String>) -> Option<T> {
            serde_json::from_value(serde_json::Value::String(text?)).ok()
        }
        let is_code = |text: &String| text.len() <= LONGEST_CODE && text.bytes().all(|byte| byte.is_ascii_graphic());
        let details = self.details.and_then(|raw| serde_json::from_str::<ForeignDetails>(raw.get()).ok());
        let coding = details.and_then(|details| details.coding?.into_iter().next());
        let coding = coding.and_then(|coding| Some((coding.system.unwrap_or_default(), coding.code?)));
        Issue {
            severity: read(self.severity).unwrap_or(IssueSeverity::Error),
            code: read(self.code).unwrap_or(IssueType::Processing),
            coding: coding.filter(|(system, code)| is_code(system) && is_code(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn severities(outcome: &str) -> Vec<IssueSeverity> {
        Issue::all_of(outcome.as_bytes()).into_iter().map(|issue| issue.severity).collect()
    }

    #[test]
    fn what_is_not_understood_is_bad_news() {
        use IssueSeverity::{Error, Warning};
        for (outcome, expected) in [
            (r#"{"issue":[]}"#, vec![]),
            ("{}", vec![]),
            (r#"{"issue":[{"severity":"warning","code":"incomplete","details":"text"}]}"#, vec![Warning]),
            (r#"{"issue":[{"severity":"warning","details":{"coding":null}}]}"#, vec![Warning]),
            (r#"{"issue":[{"severity":"warning","code":7}]}"#, vec![Error]),
            (r#"{"issue":[{"severity":"warning"},7]}"#, vec![Warning, Error]),
            (r#"{"issue":[{"severity":"grave"}]}"#, vec![Error]),
            (r#"{"issue":{"severity":"warning"}}"#, vec![Error]),
            (r#"{"issue":null}"#, vec![Error]),
            ("[", vec![Error]),
        ] {
            assert_eq!(severities(outcome), expected, "{outcome}");
        }
    }

    #[test]
    fn the_gravest_of_many_issues_are_kept() {
        let warnings = r#"{"severity":"warning"},"#.repeat(5 * MOST_ISSUES);
        let kept =
            severities(&format!(r#"{{"issue":[{warnings}{{"severity":"fatal"}},{warnings}{{"severity":"error"}}]}}"#));
        assert_eq!(kept[..3], [IssueSeverity::Fatal, IssueSeverity::Error, IssueSeverity::Warning]);
        assert_eq!(kept.len(), MOST_ISSUES);
    }
}
