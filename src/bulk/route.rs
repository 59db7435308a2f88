//! `BulkRoute`: kick-off, status, delete, output file, or none. Decided on one decoded path (SEC-03).

use http::Method;

use super::job_id::JobId;
use super::kickoff::{ExportLevel, Operation};
use super::shape::Release;
use crate::fhir::datatypes::Id;

/// Whose a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Bulk(BulkRoute),
    Smart(SmartRoute),
    /// The capability statement of a base that is ours alone.
    Statement,
    /// Such a base has nothing else, and nothing below it is anybody else's.
    Nowhere,
    Upstream,
}

/// Below which paths requests are looked at; none has a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BasePaths {
    /// The FHIR base, as clients write it.
    fhir: Box<str>,
    /// A base of our own, for all that is ours.
    own: Option<Box<str>>,
}

impl BasePaths {
    /// Bulk requests come to the FHIR base itself.
    pub(crate) fn shared(fhir: &str) -> Self {
        Self { fhir: fhir.trim_end_matches('/').into(), own: None }
    }

    /// Bulk requests come to a base of ours: at `fhir` nothing is, and below `own` everything. They may be the same, where
    /// nothing passes through.
    pub(crate) fn apart(fhir: &str, own: &str) -> Self {
        Self { own: Some(own.trim_end_matches('/').into()), ..Self::shared(fhir) }
    }

    /// Below which path our routes are.
    pub(crate) fn ours(&self) -> &str {
        self.own.as_deref().unwrap_or(&self.fhir)
    }

    /// Whether there is a base that is ours alone.
    pub(crate) fn are_apart(&self) -> bool {
        self.own.is_some()
    }
}

/// Whose a base is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Both,
    OursAlone,
    Upstreams,
}

/// A request to the authorization server, where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SmartRoute {
    /// `.well-known/smart-configuration`: where we issue no tokens it is the upstream's own.
    Discovery,
    Keys,
    Token,
    Introspection,
}

/// A request to one of our routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BulkRoute {
    Kickoff(Operation),
    Status(JobId),
    /// A page of the manifest after the first one, counted from there.
    Page {
        job: JobId,
        number: usize,
    },
    Delete(JobId),
    File {
        job: JobId,
        file: String,
    },
    /// A cohort of ours, read as the Group that it is.
    Cohort(Id),
    /// A cohort is to be made by a client.
    MakeCohort,
    /// The caller's own cohorts are looked for.
    FindCohorts,
    /// A cohort of the caller's is to go.
    DeleteCohort(Id),
    /// The route is ours, the job is not one that can be.
    NoSuchJob,
    MethodNotAllowed {
        allow: &'static str,
    },
}

/// Why a path goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathRefused {
    #[error("the path holds an escape that is none, or does not decode to text")]
    Escape,
    #[error("the path holds an encoded slash, a backslash or a control character")]
    Separator,
    #[error("the path holds a dot segment or an empty one")]
    Segment,
    #[error("the path lies outside of the FHIR base")]
    OutsideBase,
    #[error("the path is not written like one of the FHIR base, and could be taken for one")]
    Disguise,
    /// The upstream's own export must not be a way round ours.
    #[error("only the export operations of this server may be called here")]
    ForeignOperation,
}

impl BulkRoute {
    /// Whose the request for `path` (as it was sent, without a query) is.
    ///
    /// # Errors
    /// Every path that two readers could take for different ones, and every export operation that is not ours;
    /// [`PathRefused::OutsideBase`] for a path that nobody could take for one of ours, whatever it looks like.
    pub(crate) fn of(method: &Method, path: &str, bases: &BasePaths) -> Result<Route, PathRefused> {
        match &bases.own {
            None => Self::below(method, path, &bases.fhir, Whose::Both),
            // First: nothing that anybody could take for ours is looked at as a path of the upstream.
            Some(own) if may_lie_below(own, path) => Self::below(method, path, own, Whose::OursAlone),
            Some(_) => Self::below(method, path, &bases.fhir, Whose::Upstreams),
        }
    }

    fn below(method: &Method, path: &str, base: &str, whose: Whose) -> Result<Route, PathRefused> {
        if !may_lie_below(base, path) {
            return Err(PathRefused::OutsideBase);
        }
        let others = match whose {
            Whose::Both | Whose::Upstreams => Route::Upstream,
            Whose::OursAlone => Route::Nowhere,
        };
        let decoded = decode(path)?;
        let below = match decoded.strip_prefix(base) {
            Some("") => return Ok(others),
            Some(rest) => rest.strip_prefix('/').ok_or(PathRefused::Disguise)?,
            None => return Err(PathRefused::Disguise),
        };
        let mut segments: Vec<&str> = below.split('/').collect();
        // One slash at the end is how some clients write a base.
        if segments.last() == Some(&"") {
            segments.pop();
        }
        // Java's servers drop what follows a semicolon, and read `..;` as `..`.
        if segments.iter().any(|segment| matches!(segment.split(';').next(), Some("" | "." | ".."))) {
            return Err(PathRefused::Segment);
        }
        if whose != Whose::Upstreams && !below.ends_with('/') {
            if let Some(route) = ours(method, &segments) {
                return Ok(Route::Bulk(route));
            }
            if let Some(route) = smart(&segments) {
                return Ok(Route::Smart(route));
            }
            if whose == Whose::OursAlone && segments == ["metadata"] {
                return Ok(Route::Statement);
            }
        }
        if whose != Whose::OursAlone && segments.iter().any(|segment| is_bulk_operation(segment)) {
            return Err(PathRefused::ForeignOperation);
        }
        Ok(others)
    }
}

fn ours(method: &Method, segments: &[&str]) -> Option<BulkRoute> {
    let not_allowed = |allow| BulkRoute::MethodNotAllowed { allow };
    if let Some((operation, of)) = segments.split_last()
        && let Some(release) = release(operation)
    {
        let level = match of {
            [] => ExportLevel::System,
            ["Patient"] => ExportLevel::Patient,
            ["Group", id] => ExportLevel::Group(Id::parse(id).ok()?),
            _ => return None,
        };
        return Some(match (release, method) {
            (Release::Three, &(Method::GET | Method::POST)) | (Release::Four, &Method::POST) => {
                BulkRoute::Kickoff(Operation { level, release })
            }
            (Release::Three, _) => not_allowed("GET, POST"),
            // It changes what we hold, and so is never called by GET.
            (Release::Four, _) => not_allowed("POST"),
        });
    }
    Some(match segments {
        ["$bulk-status", job] => match (job.parse(), method) {
            (Ok(job), &Method::GET) => BulkRoute::Status(job),
            (Ok(job), &Method::DELETE) => BulkRoute::Delete(job),
            (Err(_), &(Method::GET | Method::DELETE)) => BulkRoute::NoSuchJob,
            _ => not_allowed("GET, DELETE"),
        },
        ["$bulk-status", job, page] => match (job.parse(), page_number(page), method) {
            (Ok(job), Some(number), &Method::GET) => BulkRoute::Page { job, number },
            (Err(_), _, &Method::GET) | (_, None, _) => BulkRoute::NoSuchJob,
            _ => not_allowed("GET"),
        },
        ["$bulk-file", job, file] => match (job.parse(), method) {
            (Ok(job), &(Method::GET | Method::HEAD)) => BulkRoute::File { job, file: (*file).to_owned() },
            (Err(_), &(Method::GET | Method::HEAD)) => BulkRoute::NoSuchJob,
            _ => not_allowed("GET, HEAD"),
        },
        _ => return None,
    })
}

/// The first page is at the status address itself.
fn page_number(segment: &str) -> Option<usize> {
    let is_plain = !segment.starts_with('0') && segment.len() <= 9 && segment.bytes().all(|byte| byte.is_ascii_digit());
    segment.parse().ok().filter(|number| is_plain && *number > 1)
}

/// Which release's export a segment calls, if it calls one.
fn release(segment: &str) -> Option<Release> {
    [Release::Three, Release::Four].into_iter().find(|release| release.operation() == segment)
}

fn smart(segments: &[&str]) -> Option<SmartRoute> {
    Some(match segments {
        [".well-known", "smart-configuration"] => SmartRoute::Discovery,
        ["$bulk-jwks"] => SmartRoute::Keys,
        ["$bulk-token"] => SmartRoute::Token,
        ["$bulk-introspect"] => SmartRoute::Introspection,
        _ => return None,
    })
}

/// `$export` and whatever begins with it, `$bulk-` likewise, in whatever case.
fn is_bulk_operation(segment: &str) -> bool {
    let begins = |name: &str| segment.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    begins("$export") || begins("$bulk-")
}

/// How often a path is decoded to find out what it could be taken for.
const MOST_ROUNDS: usize = 8;

/// Whether some reader could take `path` for one below `base`: one that decodes it again and again, takes a backslash
/// for a slash, drops what follows a semicolon, merges slashes, follows dot segments and does not mind upper case.
fn may_lie_below(base: &str, path: &str) -> bool {
    if path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return true;
    }
    let mut text = path.to_owned();
    for round in 0.. {
        let Some(again) = decoded_again(&text) else { break };
        // SEC-06: nobody decodes so often, and each time costs as much as the path is long. Such a path is never decoded by
        // itself either: an escape of it stands for a part of another one.
        if round == MOST_ROUNDS {
            return true;
        }
        text = again;
    }
    let base: Vec<&str> = base.split('/').filter(|segment| !segment.is_empty()).collect();
    let mut seen: Vec<&str> = Vec::new();
    text.split(['/', '\\']).any(|segment| {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(seen.pop()),
            name => seen.push(name),
        }
        seen.len() == base.len() && seen.iter().zip(&base).all(|(seen, base)| seen.eq_ignore_ascii_case(base))
    })
}

/// The text with its escapes decoded once more, whatever they stand for; none if there are none.
fn decoded_again(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = escaped.filter(|_| *byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    (decoded.len() < text.len()).then(|| String::from_utf8_lossy(&decoded).into_owned())
}

/// The path with its escapes decoded once.
fn decode(path: &str) -> Result<String, PathRefused> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit =
            || bytes.next().and_then(|byte| char::from(byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(PathRefused::Escape) };
        let byte = high * 16 + low;
        // A percent sign that was escaped itself would be decoded a second time by somebody else.
        if matches!(byte, b'/' | b'%') {
            return Err(PathRefused::Separator);
        }
        decoded.push(byte);
    }
    let decoded = String::from_utf8(decoded).map_err(|_| PathRefused::Escape)?;
    if decoded.contains(|character: char| character == '\\' || character.is_control()) {
        return Err(PathRefused::Separator);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "0123456789abcdef0123456789abcdef";

    fn of(method: &Method, path: &str) -> Result<Route, PathRefused> {
        BulkRoute::of(method, path, &BasePaths::shared("/fhir"))
    }

    fn bulk(path: &str) -> Option<BulkRoute> {
        match of(&Method::GET, path) {
            Ok(Route::Bulk(route)) => Some(route),
            Ok(Route::Smart(_) | Route::Statement | Route::Nowhere | Route::Upstream) | Err(_) => None,
        }
    }

    #[test]
    fn the_operations_of_the_guide_are_ours_also_when_they_are_escaped() {
        let group = ExportLevel::Group(Id::parse("g-1").expect("an id"));
        for (path, expected) in [
            ("/fhir/$export", BulkRoute::Kickoff(ExportLevel::System.into())),
            ("/fhir/%24export", BulkRoute::Kickoff(ExportLevel::System.into())),
            ("/fhir/%24%65xport", BulkRoute::Kickoff(ExportLevel::System.into())),
            ("/fhir/Patient/$export", BulkRoute::Kickoff(ExportLevel::Patient.into())),
            ("/fhir/Group/g-1/$export", BulkRoute::Kickoff(group.into())),
            (&format!("/fhir/$bulk-status/{JOB}"), BulkRoute::Status(JOB.parse().expect("a job's id"))),
            ("/fhir/$bulk-status/1", BulkRoute::NoSuchJob),
            (&format!("/fhir/$bulk-status/{JOB}/2"), BulkRoute::Page { job: JOB.parse().expect("an id"), number: 2 }),
            (&format!("/fhir/$bulk-status/{JOB}/1"), BulkRoute::NoSuchJob),
            (&format!("/fhir/$bulk-status/{JOB}/02"), BulkRoute::NoSuchJob),
            (&format!("/fhir/$bulk-status/{JOB}/+2"), BulkRoute::NoSuchJob),
            (&format!("/fhir/$bulk-status/{JOB}/99999999999999999999"), BulkRoute::NoSuchJob),
        ] {
            assert_eq!(bulk(path), Some(expected), "{path}");
        }
    }

    /// SEC-03: the operation of 4.0 is ours at each level, called by POST alone, and nobody else's under another spelling.
    #[test]
    fn the_export_of_the_fourth_release_is_ours_and_posted() {
        let group = ExportLevel::Group(Id::parse("g-1").expect("an id"));
        for (path, level) in [
            ("/fhir/$export-v4", ExportLevel::System),
            ("/fhir/%24export%2Dv4", ExportLevel::System),
            ("/fhir/Patient/$export-v4", ExportLevel::Patient),
            ("/fhir/Group/g-1/$export-v4", group),
        ] {
            let called = Route::Bulk(BulkRoute::Kickoff(Operation { level, release: Release::Four }));
            assert_eq!(of(&Method::POST, path), Ok(called), "{path}");
            for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
                let refused = Route::Bulk(BulkRoute::MethodNotAllowed { allow: "POST" });
                assert_eq!(of(&method, path), Ok(refused), "{method} {path}");
            }
        }
        for path in [
            "/fhir/$export-v4/",
            "/fhir/$Export-V4",
            "/fhir/$export-v5",
            "/fhir/$export-v4;x=1",
            "/fhir/$export-v4/$export",
            "/fhir/Patient/7/$export-v4",
            "/fhir/Group/$export-v4",
            "/fhir/Group/a,b/$export-v4",
            "/fhir/Observation/$export-v4",
        ] {
            assert_eq!(of(&Method::POST, path), Err(PathRefused::ForeignOperation), "{path}");
        }
    }

    #[test]
    fn the_authorization_server_has_its_own_routes() {
        for (path, expected) in [
            ("/fhir/.well-known/smart-configuration", SmartRoute::Discovery),
            ("/fhir/$bulk-token", SmartRoute::Token),
            ("/fhir/%24bulk-token", SmartRoute::Token),
            ("/fhir/$bulk-introspect", SmartRoute::Introspection),
            ("/fhir/$bulk-jwks", SmartRoute::Keys),
        ] {
            assert_eq!(of(&Method::POST, path), Ok(Route::Smart(expected)), "{path}");
        }
        for path in ["/fhir/$bulk-token/", "/fhir/$bulk-token/x", "/fhir/Patient/$bulk-token", "/fhir/$Bulk-Token"] {
            assert_eq!(of(&Method::POST, path), Err(PathRefused::ForeignOperation), "{path}");
        }
        assert_eq!(of(&Method::GET, "/fhir/.well-known/openid-configuration"), Ok(Route::Upstream));
    }

    #[test]
    fn other_methods_are_told_which_are_allowed() {
        for (method, path, expected) in [
            (Method::PUT, "/fhir/$export", "GET, POST"),
            (Method::POST, &format!("/fhir/$bulk-status/{JOB}") as &str, "GET, DELETE"),
            (Method::DELETE, &format!("/fhir/$bulk-file/{JOB}/f"), "GET, HEAD"),
        ] {
            let expected = Ok(Route::Bulk(BulkRoute::MethodNotAllowed { allow: expected }));
            assert_eq!(of(&method, path), expected, "{method} {path}");
        }
    }

    /// SEC-03
    #[test]
    fn a_path_that_could_be_read_in_two_ways_goes_nowhere() {
        use PathRefused::{Escape, ForeignOperation, OutsideBase, Segment, Separator};
        for (path, expected) in [
            ("/fhir/../admin", Segment),
            ("/fhir/%2e%2e/admin", Segment),
            ("/fhir/./Patient", Segment),
            ("/fhir//Patient", Segment),
            ("/fhir/Patient//", Segment),
            ("/fhir/..;/admin", Segment),
            ("/fhir/.;x=1/Patient", Segment),
            ("/fhir/Patient/%2e%2e%3bx/1", Segment),
            ("/fhir/;/Patient", Segment),
            ("/fhir/Patient%2f1", Separator),
            ("/fhir/Patient%2F$export", Separator),
            ("/fhir/Patient%5c1", Separator),
            ("/fhir/Patient\\1", Separator),
            ("/fhir/a%00b", Separator),
            ("/fhir/a%0d%0ab", Separator),
            ("/fhir/%2524export", Separator),
            ("/fhir/%zz", Escape),
            ("/fhir/%2", Escape),
            ("/fhir/%ff", Escape),
            ("/admin", OutsideBase),
            ("/fhirx/Patient", OutsideBase),
            ("/", OutsideBase),
            ("*", OutsideBase),
            ("/fhir/$export/", ForeignOperation),
            ("/fhir/$EXPORT", ForeignOperation),
            ("/fhir/$export;x=1", ForeignOperation),
            ("/fhir/$export-poll-status", ForeignOperation),
            ("/fhir/Patient/7/$export", ForeignOperation),
            ("/fhir/Group/a,b/$export", ForeignOperation),
            ("/fhir/Group/$export", ForeignOperation),
            ("/fhir/$bulk-publish", ForeignOperation),
            ("/fhir/$Bulk-Status/1", ForeignOperation),
            ("/fhir/%24Export/x", ForeignOperation),
            ("/fhir/$bulk-status", ForeignOperation),
        ] {
            assert_eq!(of(&Method::GET, path), Err(expected), "{path}");
        }
    }

    /// Whoever embeds us has paths of its own; those that no reader could take for ours are theirs to judge.
    #[test]
    fn a_strange_path_is_refused_only_where_it_could_lead_to_the_base() {
        use PathRefused::{Disguise, OutsideBase, Separator};
        for (path, expected) in [
            ("/files/a%2Fb", OutsideBase),
            ("/files//x\\y/%zz/%", OutsideBase),
            ("/files/$export", OutsideBase),
            ("/files/fhir/$export", OutsideBase),
            ("/files/%2e%2e%2ffhir/$export", Separator),
            ("/files\\..\\fhir\\$export", Separator),
            ("/%2566hir/$export", Separator),
            ("//fhir/$export", Disguise),
            ("/x/../fhir/$export", Disguise),
            ("/FHIR/$export", Disguise),
            ("/./fhir/$export", Disguise),
            ("/fhir;x=1/$export", Disguise),
        ] {
            assert_eq!(of(&Method::GET, path), Err(expected), "{path}");
        }
    }

    /// SEC-06: what costs the more the longer it is, is refused, wherever it would lead.
    #[test]
    fn a_path_that_is_escaped_over_and_over_is_refused() {
        use PathRefused::{Escape, OutsideBase, Separator};
        let nested = |levels: usize| format!("/files/%{}41", "25".repeat(levels));
        let long = nested(32 * 1024);
        assert!(long.len() > 64 * 1024);
        let broken = format!("/files/{}", "%%32%35".repeat(10 * 1024));
        for (path, expected) in [
            (long.as_str(), Separator),
            (&nested(7), OutsideBase),
            (&nested(8), Separator),
            (&broken, OutsideBase),
            (&format!("/files/%%32%35{}41", "25".repeat(9)), Escape),
        ] {
            assert_eq!(of(&Method::GET, path), Err(expected), "{} bytes", path.len());
            let apart = BulkRoute::of(&Method::GET, path, &BasePaths::apart("/fhir", "/bulk"));
            assert_eq!(apart, Err(expected), "{} bytes", path.len());
        }
    }

    #[test]
    fn everything_else_is_the_upstreams() {
        for path in [
            "/fhir",
            "/fhir/",
            "/fhir/Patient",
            "/fhir/Patient/1",
            "/fhir/Patient/1/$everything",
            "/fhir/Patient/caf%C3%A9",
            "/fhir/metadata",
            "/fhir/Patient/",
        ] {
            assert_eq!(of(&Method::GET, path), Ok(Route::Upstream), "{path}");
        }
        assert_eq!(BulkRoute::of(&Method::GET, "/Patient", &BasePaths::shared("/")), Ok(Route::Upstream));
    }

    /// A base of our own: what is below it is ours or nobody's, and what is not is never ours.
    #[test]
    fn nothing_below_a_base_of_our_own_is_the_upstreams_and_nothing_else_is_ours() {
        use PathRefused::{Disguise, ForeignOperation, OutsideBase, Segment, Separator};
        let kickoff = || Route::Bulk(BulkRoute::Kickoff(ExportLevel::System.into()));
        for (fhir, cases) in [
            (
                "/fhir",
                &[
                    ("/bulk/$export", Ok(kickoff())),
                    ("/bulk/%24export", Ok(kickoff())),
                    ("/%62ulk/$export", Ok(kickoff())),
                    ("/bulk/metadata", Ok(Route::Statement)),
                    ("/bulk/metadata/", Ok(Route::Nowhere)),
                    ("/bulk/.well-known/smart-configuration", Ok(Route::Smart(SmartRoute::Discovery))),
                    ("/bulk/$bulk-token", Ok(Route::Smart(SmartRoute::Token))),
                    ("/bulk", Ok(Route::Nowhere)),
                    ("/bulk/", Ok(Route::Nowhere)),
                    ("/bulk/Patient", Ok(Route::Nowhere)),
                    ("/bulk/Patient/1", Ok(Route::Nowhere)),
                    ("/bulk/$export/", Ok(Route::Nowhere)),
                    ("/bulk/$export-poll-status", Ok(Route::Nowhere)),
                    ("/bulk/fhir/Patient", Ok(Route::Nowhere)),
                    ("/bulk/..", Err(Segment)),
                    ("/bulk/../fhir/Patient", Err(Segment)),
                    ("/bulk/..;/fhir/Patient", Err(Segment)),
                    ("/bulk/%2e%2e/fhir/Patient", Err(Segment)),
                    ("/bulk//fhir", Err(Segment)),
                    ("/bulk%2f$export", Err(Separator)),
                    ("/BULK/$export", Err(Disguise)),
                    ("//bulk/$export", Err(Disguise)),
                    ("/bulk;x/$export", Err(Disguise)),
                    ("/./bulk/$export", Err(Disguise)),
                    ("/fhir/../bulk/$export", Err(Disguise)),
                    ("/fhir/..;/bulk/$export", Err(Disguise)),
                    ("/fhir%2f..%2fbulk", Err(Separator)),
                    ("/bulkx", Err(OutsideBase)),
                    ("/bulkx/$export", Err(OutsideBase)),
                    ("/fhir/$export", Err(ForeignOperation)),
                    ("/fhir/Patient/$export", Err(ForeignOperation)),
                    ("/fhir/$bulk-token", Err(ForeignOperation)),
                    ("/fhir/%24bulk-status/1", Err(ForeignOperation)),
                    ("/fhir/.well-known/smart-configuration", Ok(Route::Upstream)),
                    ("/fhir/metadata", Ok(Route::Upstream)),
                    ("/fhir/Patient", Ok(Route::Upstream)),
                    ("/fhir/bulk/$export", Err(ForeignOperation)),
                    ("/fhir/bulk", Ok(Route::Upstream)),
                    ("/fhir", Ok(Route::Upstream)),
                ][..],
            ),
            (
                "/",
                &[
                    ("/bulk/$export", Ok(kickoff())),
                    ("/bulk/Patient", Ok(Route::Nowhere)),
                    ("/Bulk/Patient", Err(Disguise)),
                    ("/bulkx/Patient", Ok(Route::Upstream)),
                    ("/Patient", Ok(Route::Upstream)),
                    ("/Patient/../bulk/x", Err(Disguise)),
                    ("/$export", Err(ForeignOperation)),
                    ("/", Ok(Route::Upstream)),
                ],
            ),
        ] {
            let bases = BasePaths::apart(fhir, "/bulk/");
            for (path, expected) in cases {
                assert_eq!(BulkRoute::of(&Method::GET, path, &bases), *expected, "{fhir} {path}");
            }
        }
        let alone = BasePaths::apart("/fhir", "/fhir");
        assert_eq!(BulkRoute::of(&Method::GET, "/fhir/$export", &alone), Ok(kickoff()));
        assert_eq!(BulkRoute::of(&Method::GET, "/fhir/metadata", &alone), Ok(Route::Statement));
        assert_eq!(BulkRoute::of(&Method::GET, "/fhir/Patient", &alone), Ok(Route::Nowhere));
    }
}
