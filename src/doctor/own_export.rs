//! Whether the server has an export of its own, which would be a way round policy and ledger (SEC-03).

use std::fmt;

use http::StatusCode;

use crate::upstream::client::own_export::OwnExport;

/// What became of it, asked for by itself and in a batch.
#[derive(Debug)]
pub(crate) struct OwnExports {
    pub(crate) direct: OwnExport,
    pub(crate) batch: OwnExport,
}

impl OwnExports {
    fn is_a_way_round(&self) -> bool {
        let leads = |export| matches!(export, OwnExport::Begun { .. } | OwnExport::Answered(_));
        leads(self.direct) || leads(self.batch)
    }
}

impl fmt::Display for OwnExports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &str, means: &str| writeln!(f, "{name:<14}{value:<15} {means}");
        for (name, how, export) in [("own export", "`$export`", self.direct), ("", "`$export` in a batch", self.batch)]
        {
            let (value, means) = match export {
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
                OwnExport::Answered(status) => {
                    ("answered", format!("the server answers {how} with {}", status.as_u16()))
                }
                OwnExport::Unknown => ("unknown", format!("the server gives no answer to {how} that tells anything")),
            };
            line(name, value, &means)?;
        }
        if self.is_a_way_round() {
            line("", "", "SWITCH IT OFF THERE: whoever may use it exports past policy, consent and ledger")?;
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
            (begun(true), refused, true, "by `$export`; it was ended again\n"),
            (refused, begun(false), true, "COULD NOT BE ENDED"),
            (refused, OwnExport::Answered(StatusCode::OK), true, "answers `$export` in a batch with 200\n"),
        ] {
            let told = OwnExports { direct, batch }.to_string();
            assert!(told.starts_with("own export    ") && told.contains(says), "{told}");
            assert_eq!(told.contains("SWITCH IT OFF THERE"), expected, "{told}");
        }
    }
}
