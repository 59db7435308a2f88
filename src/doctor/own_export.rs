//! Whether the server has an export of its own, which would be a way round policy and ledger (SEC-03).

use std::fmt;

use http::StatusCode;

use crate::upstream::client::own_export::{Level, OwnExport};

/// What became of it, asked for by itself and in a batch.
#[derive(Debug)]
pub(crate) struct OwnExports {
    /// The levels that the server's statement names.
    pub(crate) stated: Vec<Level>,
    pub(crate) direct: Vec<(Level, OwnExport)>,
    pub(crate) batch: Vec<(Level, OwnExport)>,
}

impl OwnExports {
    fn is_a_way_round(&self) -> bool {
        let leads = |export| matches!(export, OwnExport::Begun { .. } | OwnExport::Answered(_));
        !self.stated.is_empty() || self.direct.iter().chain(&self.batch).any(|(_, export)| leads(*export))
    }
}

/// What became of the same at several levels.
fn told(export: OwnExport, how: &str) -> (&'static str, String) {
    match export {
        OwnExport::Refused(status) => {
            let tried = match status {
                StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => ": it may take another one",
                _ => "",
            };
            ("refused", format!("the server answers {how} with {}{tried}", status.as_u16()))
        }
        OwnExport::Begun { withdrawn: true } => {
            ("BEGUN", format!("the server has begun an export by {how}; it was ended again"))
        }
        OwnExport::Begun { withdrawn: false } => (
            "BEGUN",
            format!(
                "the server has begun an export by {how}, of Basic since now, WHICH COULD NOT BE ENDED: end it there"
            ),
        ),
        OwnExport::Answered(status) => ("answered", format!("the server answers {how} with {}", status.as_u16())),
        OwnExport::Unanswered => (
            "UNANSWERED",
            format!("no answer to {how} came in time: an export of Basic since now MAY HAVE BEGUN; look there"),
        ),
        OwnExport::Unknown => ("unknown", format!("the server gives no answer to {how} that tells anything")),
    }
}

/// `a`, `b` and `c`.
fn listed(levels: &[Level]) -> String {
    let names: Vec<_> = levels.iter().map(ToString::to_string).collect();
    match names.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        _ => names.concat(),
    }
}

impl fmt::Display for OwnExports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = "own export";
        let mut line = |value: &str, means: &str| writeln!(f, "{:<14}{value:<15} {means}", std::mem::take(&mut name));
        for (tried, where_tried) in [(&self.direct, ""), (&self.batch, " in a batch")] {
            for alike in tried.chunk_by(|(_, one), (_, other)| one == other) {
                let Some((_, export)) = alike.first() else { continue };
                let levels: Vec<_> = alike.iter().map(|(level, _)| *level).collect();
                let (value, means) = told(*export, &format!("{}{where_tried}", listed(&levels)));
                line(value, &means)?;
            }
        }
        if !self.stated.is_empty() {
            line("stated", &format!("the server's statement offers {}", listed(&self.stated)))?;
        }
        if self.is_a_way_round() {
            line("", "SWITCH IT OFF THERE: whoever may use it exports past policy, consent and ledger")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_of_the_servers_own_is_asked_to_be_switched_off() {
        let refused = OwnExport::Refused(StatusCode::NOT_FOUND);
        let begun = |withdrawn| OwnExport::Begun { withdrawn };
        for (direct, batch, expected, says) in [
            (refused, refused, false, "with 404\n"),
            (OwnExport::Refused(StatusCode::BAD_REQUEST), refused, false, "with 400: it may take another one\n"),
            (OwnExport::Unknown, OwnExport::Unknown, false, "no answer to `$export` in a batch"),
            (OwnExport::Unanswered, refused, false, "MAY HAVE BEGUN"),
            (begun(true), refused, true, "by `$export`; it was ended again\n"),
            (refused, begun(false), true, "COULD NOT BE ENDED"),
            (refused, OwnExport::Answered(StatusCode::OK), true, "answers `$export` in a batch with 200\n"),
        ] {
            let (direct, batch) = (vec![(Level::System, direct)], vec![(Level::System, batch)]);
            let told = OwnExports { stated: Vec::new(), direct, batch }.to_string();
            assert!(told.starts_with("own export    ") && told.contains(says), "{told}");
            assert_eq!(told.contains("SWITCH IT OFF THERE"), expected, "{told}");
        }
    }

    #[test]
    fn the_levels_that_were_tried_are_told() {
        let refused = OwnExport::Refused(StatusCode::NOT_FOUND);
        let ended = OwnExport::Begun { withdrawn: true };
        let direct = vec![(Level::System, refused), (Level::Patient, refused), (Level::Group, ended)];
        let batch = vec![(Level::System, refused), (Level::Patient, refused), (Level::Group, refused)];
        let told = OwnExports { stated: vec![Level::Group], direct, batch }.to_string();
        assert_eq!(
            told,
            "own export    refused         the server answers `$export` and `Patient/$export` with 404\n\
            \x20             BEGUN           the server has begun an export by `Group/…/$export`; it was ended again\n\
            \x20             refused         the server answers `$export`, `Patient/$export` and `Group/…/$export` in a batch with 404\n\
            \x20             stated          the server's statement offers `Group/…/$export`\n\
            \x20                             SWITCH IT OFF THERE: whoever may use it exports past policy, consent and ledger\n"
        );
    }
}
