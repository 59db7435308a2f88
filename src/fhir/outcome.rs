//! `OperationOutcome`, in as far as we say it and understand it.

use std::fmt;

use serde::{Deserialize, Serialize};

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
pub(crate) struct ForeignOutcome {
    #[serde(default)]
    issue: Vec<ForeignIssue>,
}

#[derive(Deserialize)]
struct ForeignIssue {
    severity: Option<String>,
    code: Option<String>,
    details: Option<ForeignDetails>,
}

#[derive(Deserialize)]
struct ForeignDetails {
    #[serde(default)]
    coding: Vec<ForeignCoding>,
}

#[derive(Deserialize)]
struct ForeignCoding {
    system: Option<String>,
    code: Option<String>,
}

/// Longest system or code that is kept, in bytes, and most issues of one outcome.
const LONGEST_CODE: usize = 200;
const MOST_ISSUES: usize = 20;

impl ForeignOutcome {
    pub(crate) fn into_issues(self) -> Vec<Issue> {
        self.issue.into_iter().take(MOST_ISSUES).map(ForeignIssue::known).collect()
    }
}

impl ForeignIssue {
    fn known(self) -> Issue {
        fn read<T: serde::de::DeserializeOwned>(text: Option<String>) -> Option<T> {
            serde_json::from_value(serde_json::Value::String(text?)).ok()
        }
        let is_code = |text: &String| text.len() <= LONGEST_CODE && text.bytes().all(|byte| byte.is_ascii_graphic());
        let coding = self.details.and_then(|details| details.coding.into_iter().next());
        let coding = coding.and_then(|coding| Some((coding.system.unwrap_or_default(), coding.code?)));
        Issue {
            severity: read(self.severity).unwrap_or(IssueSeverity::Error),
            code: read(self.code).unwrap_or(IssueType::Processing),
            coding: coding.filter(|(system, code)| is_code(system) && is_code(code)),
        }
    }
}
