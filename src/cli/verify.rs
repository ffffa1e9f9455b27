//! `polyhook verify`: why a signature matches, or why it does not.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

use super::{CliError, Global, output};
use crate::{
    clock::Clock,
    secret::Secret,
    signature::{Form, Rejection, Scheme, Verifier},
};

/// Explain why a signature matches, or why it does not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook verify --signature 5bdc… --timestamp 1780000000 --body delivery.json
  pbpaste | polyhook verify --signature 5bdc… --secret-file secret.txt

Without --secret-file the configured secrets are tried. Exit code 1 if none matches.")]
pub(super) struct Args {
    /// The value of X-PolyAI-Signature
    #[arg(long, value_name = "HEX")]
    signature: String,
    /// The value of X-PolyAI-Timestamp, if there was one
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<String>,
    /// The raw body as it came in; `-` or nothing for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    body: PathBuf,
    /// A file with the secrets to try, one a line, instead of the configured ones
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// One JSON object: {"genuine", "form", "secret", "reason", "hint"}
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Verdict {
    genuine: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<Form>,
    /// Counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    hint: String,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<(), CliError> {
    let now = Clock::System.now();
    let mut signature = match &args.secret_file {
        Some(path) => crate::web::SignatureConfig {
            secrets: Secret::read_lines(path)
                .map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?,
            ..Default::default()
        },
        None => global.load()?.signature,
    };
    signature.secrets = signature.valid(now);
    if signature.secrets.is_empty() {
        return Err(CliError::Usage(
            "there is no secret to try: give --secret-file, or configure signature.secrets_file".to_owned(),
        ));
    }
    let body = read_body(&args.body)?;
    let verdict = examine(&signature.secrets, signature.scheme, signature.tolerance, args, &body, now);
    if args.json {
        output::json(&verdict);
    } else if verdict.genuine {
        output::line(format!("{} {}", output::good("genuine:"), verdict.hint));
    } else {
        output::line(format!("{} {}", output::bad("not genuine:"), verdict.hint));
    }
    if verdict.genuine { Ok(()) } else { Err(CliError::Said) }
}

fn examine(
    secrets: &[Secret],
    scheme: Scheme,
    tolerance: Duration,
    args: &Args,
    body: &[u8],
    now: Timestamp,
) -> Verdict {
    let signature = args.signature.as_bytes();
    let timestamp = args.timestamp.as_deref().map(str::as_bytes);
    let verify = |scheme, tolerance, body: &[u8]| {
        Verifier::new(secrets, scheme, tolerance).verify(Some(signature), timestamp, body, now)
    };
    let rejection = match verify(scheme, tolerance, body) {
        Ok(genuine) => {
            let form = match genuine.form {
                Form::Timestamped => "timestamp and body",
                Form::Body => "the body alone",
            };
            return Verdict {
                genuine: true,
                form: Some(genuine.form),
                secret: Some(genuine.secret + 1),
                reason: None,
                hint: format!("secret number {} signed {form}", genuine.secret + 1),
            };
        }
        Err(rejection) => rejection,
    };
    let hint = match rejection {
        Rejection::Stale { skew_s } => format!(
            "the signature is right but {} s {} our clock; the tolerance is {} s. If all deliveries are like this, set this machine's clock",
            skew_s.unsigned_abs(),
            if skew_s > 0 { "behind" } else { "ahead of" },
            tolerance.as_secs()
        ),
        Rejection::Mismatch | Rejection::TimestampMissing | Rejection::TimestampMalformed => {
            likely_mistake(&verify, scheme, body).unwrap_or_else(|| {
                if rejection == Rejection::Mismatch {
                    "no secret gives this signature, nor does the body with usual changes undone: most likely another endpoint's secret, or one that was rotated".to_owned()
                } else {
                    format!("{rejection}; the configured scheme needs it")
                }
            })
        }
        other => other.to_string(),
    };
    Verdict { reason: Some(rejection.label()), hint, ..Verdict::default() }
}

/// Tries the changes that bodies suffer on their way, and the other scheme.
fn likely_mistake(
    verify: &impl Fn(Scheme, Duration, &[u8]) -> Result<crate::signature::Genuine, Rejection>,
    scheme: Scheme,
    body: &[u8],
) -> Option<String> {
    let found = |body: &[u8]| verify(Scheme::Auto, Duration::MAX, body).is_ok();
    if scheme != Scheme::Auto && found(body) {
        return Some(
            "the signature is of the other form: set signature.scheme = \"auto\", or pin the other one"
                .to_owned(),
        );
    }
    let trimmed = body.trim_ascii_end();
    let with = |end: &[u8]| [trimmed, end].concat();
    if found(trimmed) || found(&with(b"\n")) || found(&with(b"\r\n")) {
        return Some(
            "the body has a line end too many or too few: it was saved by an editor or a shell; use the raw bytes"
                .to_owned(),
        );
    }
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let compact = serde_json::to_vec(&value).ok()?;
    let pretty = serde_json::to_vec_pretty(&value).ok()?;
    let spaced = spaced_json(&value);
    (found(&compact) || found(&pretty) || found(spaced.as_bytes())).then(|| {
        "the body was parsed and written again on its way (spaces or key order changed): the signature covers the raw bytes"
            .to_owned()
    })
}

/// JSON with `", "` and `": "`, as Python's `json.dumps` writes it.
fn spaced_json(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(key, value)| {
                    format!("{}: {}", serde_json::Value::from(key.as_str()), spaced_json(value))
                })
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        serde_json::Value::Array(items) => {
            format!("[{}]", items.iter().map(spaced_json).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn read_body(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut body = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut body).map(drop)
    } else {
        std::fs::read(path).map(|bytes| body = bytes)
    };
    read.map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::sign;

    const NOW: i64 = 1_780_000_000;

    fn hint(signature: String, timestamp: Option<i64>, scheme: Scheme, body: &[u8]) -> String {
        let args = Args {
            signature,
            timestamp: timestamp.map(|seconds| seconds.to_string()),
            body: "-".into(),
            secret_file: None,
            json: false,
        };
        let secrets = [Secret::new("another-secret-entirely"), secret()];
        examine(&secrets, scheme, Duration::from_mins(5), &args, body, Timestamp::from_second(NOW).unwrap())
            .hint
    }

    fn secret() -> Secret {
        Secret::new("whsec_0123456789abcdef")
    }

    #[test]
    fn says_which_secret_and_form_matched() {
        assert!(
            hint(sign(&secret(), Some(NOW), b"{}"), Some(NOW), Scheme::Auto, b"{}")
                .contains("secret number 2 signed timestamp")
        );
    }

    #[test]
    fn names_the_likely_mistake() {
        let body = br#"{"b":1,"a":[1,2]}"#;
        let signature = || sign(&secret(), None, body);
        assert!(hint(signature(), None, Scheme::Auto, b"{\"b\":1,\"a\":[1,2]}\n").contains("line end"));
        assert!(hint(signature(), Some(NOW), Scheme::Timestamped, body).contains("other form"));
        let sorted = sign(&secret(), None, br#"{"a": [1, 2], "b": 1}"#);
        assert!(hint(sorted, None, Scheme::Auto, br#"{"a":[1,2],"b":1}"#).contains("written again"));
        assert!(
            hint(sign(&secret(), Some(NOW - 900), body), Some(NOW - 900), Scheme::Auto, body)
                .contains("900 s behind")
        );
        assert!(hint(sign(&Secret::new("wrong"), None, body), None, Scheme::Auto, body).contains("rotated"));
    }
}
