//! `polyhook verify`: explains why a signature is valid or invalid.
//!
//! If the receiver would reject the signature, the command undoes common mistakes until the signature matches, and
//! reports them. It never prints a secret.

mod json_rewrites;
mod mistakes;
mod recorded_request;

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

use self::{mistakes::Delivery, recorded_request::RecordedRequest};
use super::{CliError, GlobalArgs, output};
use crate::{
    bounded_file,
    clock::Clock,
    secret::Secret,
    signature::{Scheme, SignatureError, SignedForm, Verifier},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook verify --signature 5bdc… --timestamp 1780000000 --body body.json
  polyhook verify --signature 9f1e… --secret-file secret.txt < body.json
  polyhook verify --request recorded.http --json

Tries the configured secrets, or those of --secret-file. If none matches, the command \
undoes common mistakes, one or two at a time: changed line ends, rewritten JSON, \
decoded or padded secrets, other encodings, another timestamp. Exit code 1 unless the \
receiver would accept the delivery unchanged.")]
pub(super) struct Args {
    /// Value of the X-PolyAI-Signature header
    #[arg(long, value_name = "HEX", required_unless_present = "request")]
    signature: Option<String>,
    /// Value of the X-PolyAI-Timestamp header, if present
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<String>,
    /// File with the raw body; `-` for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    body: PathBuf,
    /// File with a whole request: headers (also as printed by `curl -v`), empty line, body
    #[arg(long, value_name = "FILE", conflicts_with_all = ["signature", "timestamp", "body"])]
    request: Option<PathBuf>,
    /// File with secrets to try, one per line, instead of the configured ones
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// The result of the verification.
#[derive(Debug, Default, Serialize)]
struct Verdict {
    genuine: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<SignedForm>,
    /// Counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mistake: Option<&'static str>,
    #[serde(rename = "message")]
    hint: String,
}

pub(super) fn run(global: &GlobalArgs, args: &Args) -> Result<(), CliError> {
    let now = Clock::System.now();
    let mut signature = match &args.secret_file {
        Some(path) => crate::web::SignatureConfig {
            secrets: bounded_file::read_text_or_pipe(path)
                .map(|text| Secret::parse_lines(&text))
                .map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?,
            ..Default::default()
        },
        None => global.load()?.signature,
    };
    signature.secrets = signature.valid(now);
    if signature.secrets.is_empty() {
        return Err(CliError::Usage(
            "there is no secret to verify with; give --secret-file, or set signature.secrets_file".to_owned(),
        ));
    }
    let request = read_request(args)?;
    let verdict = examine(&signature.secrets, signature.scheme, signature.tolerance, &request, now);
    if args.json {
        output::json(&verdict);
    } else if verdict.genuine {
        output::line(format!("{} {}", output::green("genuine:"), verdict.hint));
    } else {
        output::line(format!("{} {}", output::red("not genuine:"), verdict.hint));
    }
    if verdict.genuine { Ok(()) } else { Err(CliError::AlreadyReported) }
}

fn read_request(args: &Args) -> Result<RecordedRequest, CliError> {
    let Some(path) = &args.request else {
        return Ok(RecordedRequest {
            signature: args.signature.clone(),
            timestamp: args.timestamp.clone(),
            body: read_input(&args.body)?,
        });
    };
    RecordedRequest::parse(&read_input(path)?).ok_or_else(|| {
        CliError::Usage(format!(
            "{}: no empty line between headers and body; record the request with all its headers",
            path.display()
        ))
    })
}

fn examine(
    secrets: &[Secret],
    scheme: Scheme,
    tolerance: Duration,
    request: &RecordedRequest,
    now: Timestamp,
) -> Verdict {
    let RecordedRequest { signature, timestamp, body } = request;
    let verified = Verifier::new(secrets, scheme, tolerance).verify(
        signature.as_deref().map(str::as_bytes),
        timestamp.as_deref().map(str::as_bytes),
        body,
        now,
    );
    let rejection = match verified {
        Ok(genuine) => {
            let secret = genuine.secret + 1;
            return Verdict {
                genuine: true,
                form: Some(genuine.form),
                secret: Some(secret),
                hint: format!("secret number {secret} signed {}", signed_parts(genuine.form)),
                ..Verdict::default()
            };
        }
        Err(SignatureError::Stale { skew_s }) => return stale(skew_s, tolerance),
        Err(rejection @ SignatureError::TimestampInBody) => {
            return Verdict {
                reason: Some(rejection.label()),
                hint: "the body begins with digits and a dot, as what a timestamped delivery signs. Give the timestamp with \
                       --timestamp and only what follows the dot as the body; a receiver rejects a body of this form without a \
                       signed timestamp, because it may be a replay"
                    .to_owned(),
                ..Verdict::default()
            };
        }
        Err(rejection) => rejection,
    };
    let rejected = Verdict { reason: Some(rejection.label()), ..Verdict::default() };
    let delivery = Delivery {
        signature: signature.as_deref().unwrap_or_default(),
        timestamp: timestamp.as_deref(),
        body,
        secrets,
        now,
    };
    match mistakes::find(&delivery) {
        Some(mistake) => Verdict {
            form: Some(mistake.form),
            secret: Some(mistake.secret + 1),
            mistake: Some(mistake.name),
            hint: format!(
                "{}. Without this, secret number {} signed {}",
                mistake.hint,
                mistake.secret + 1,
                signed_parts(mistake.form)
            ),
            ..rejected
        },
        None => Verdict { hint: unexplained(rejection, &delivery), ..rejected },
    }
}

/// Explains a correct signature with a timestamp outside the tolerance.
fn stale(skew_s: i64, tolerance: Duration) -> Verdict {
    let hint = format!(
        "the signature is correct, but its timestamp is {} s {} our clock; the tolerance is {} s. If this is so for all deliveries, synchronize the clock of this machine",
        skew_s.unsigned_abs(),
        if skew_s > 0 { "behind" } else { "ahead of" },
        tolerance.as_secs()
    );
    Verdict {
        reason: Some(SignatureError::Stale { skew_s }.label()),
        form: Some(SignedForm::Timestamped),
        mistake: Some("skew"),
        hint,
        ..Verdict::default()
    }
}

fn signed_parts(form: SignedForm) -> &'static str {
    match form {
        SignedForm::Timestamped => "timestamp and body",
        SignedForm::Body => "the body alone",
    }
}

/// Explains a rejection that no common mistake explains.
fn unexplained(rejection: SignatureError, delivery: &Delivery<'_>) -> String {
    match rejection {
        SignatureError::SignatureMalformed => format!(
            "the signature has {} characters instead of 64 hex digits; copy the whole X-PolyAI-Signature header",
            delivery.signature.trim().chars().count()
        ),
        SignatureError::SignatureMissing => {
            "there is no X-PolyAI-Signature header: the sender does not sign, or a proxy removes the header"
                .to_owned()
        }
        SignatureError::TimestampMissing => {
            format!(
                "{rejection}, but signature.scheme = \"timestamped\" requires it; forward the X-PolyAI-Timestamp header unchanged"
            )
        }
        SignatureError::TimestampMalformed => {
            format!("{rejection}; forward the X-PolyAI-Timestamp header unchanged")
        }
        SignatureError::Mismatch | SignatureError::TimestampInBody | SignatureError::Stale { .. } => format!(
            "none of the {} secrets produces this signature, even with common mistakes undone. Most likely the secret belongs to another endpoint, or was rotated; list the endpoints with `polyhook endpoint list`",
            delivery.secrets.len()
        ),
    }
}

fn read_input(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(path).map(|read| bytes = read)
    };
    read.map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;
    use crate::signature::sign;

    const NOW: i64 = 1_780_000_000;
    const BODY: &[u8] = br#"{"type":"x","b":1,"a":[1,2],"name":"M\u00fcller"}"#;

    fn secret() -> Secret {
        Secret::new("whsec_0123456789abcdef0123456789abcdef")
    }

    fn verdict(signature: &str, timestamp: Option<&str>, scheme: Scheme, body: &[u8]) -> Verdict {
        let request = RecordedRequest {
            signature: Some(signature.to_owned()),
            timestamp: timestamp.map(str::to_owned),
            body: body.to_vec(),
        };
        let secrets = [Secret::new("another-secret-entirely"), secret()];
        let now = Timestamp::from_second(NOW).unwrap();
        examine(&secrets, scheme, Duration::from_mins(5), &request, now)
    }

    /// Signs `signed` with `key`, verifies the signature with `body` and checks the mistake that is reported.
    #[track_caller]
    fn assert_mistake(expected: &str, key: &str, signed: &[u8], body: &[u8], says: &str) {
        let verdict = verdict(&sign(&Secret::new(key), None, signed), None, Scheme::Auto, body);
        assert_eq!((verdict.genuine, verdict.mistake), (false, Some(expected)), "{verdict:?}");
        assert!(verdict.hint.contains(says) && verdict.secret == Some(2), "{verdict:?}");
    }

    #[test]
    fn names_the_matching_secret_and_form() {
        let signature = sign(&secret(), Some(NOW), BODY);
        let verdict = verdict(&signature, Some(&NOW.to_string()), Scheme::Auto, BODY);
        assert!(verdict.genuine && verdict.hint.contains("secret number 2 signed timestamp"), "{verdict:?}");
    }

    #[test]
    fn names_a_changed_body() {
        let key = secret();
        let text = std::str::from_utf8(BODY).unwrap();
        let plain = text.replace("\\u00fc", "ü");
        for (mistake, signed, body, says) in [
            ("trailing_newline", text.to_owned(), format!("{text}\n"), "too many"),
            ("trailing_newline", format!("{text}\n"), text.to_owned(), "too few"),
            ("trailing_newline", text.to_owned(), format!("{text}\r\n"), "too many"),
            ("white_space", text.to_owned(), format!("  {text} "), "white space"),
            ("line_ends", "{\r\n}\r\n".to_owned(), "{\n}\n".to_owned(), "in LF"),
            ("line_ends", "{\n}\n".to_owned(), "{\r\n}\r\n".to_owned(), "in CRLF"),
            ("byte_order_mark", text.to_owned(), format!("\u{feff}{text}"), "begins with"),
            ("byte_order_mark", format!("\u{feff}{text}"), text.to_owned(), "has lost"),
            ("rewritten_json", plain.clone(), text.to_owned(), "compact JSON"),
            ("rewritten_json", text.to_owned(), plain.clone(), "non-ASCII characters escaped"),
            (
                "rewritten_json",
                r#"{"b": 1, "a": [1, 2]}"#.into(),
                r#"{"b":1,"a":[1,2]}"#.into(),
                "json.dumps",
            ),
            ("rewritten_json", r#"{"a":1,"b":2}"#.into(), r#"{"b":2,"a":1}"#.into(), "keys sorted"),
            ("rewritten_json", "{\n  \"a\": 1\n}".into(), r#"{"a":1}"#.into(), "indented by two"),
        ] {
            assert_mistake(mistake, key.expose(), signed.as_bytes(), body.as_bytes(), says);
        }
    }

    #[test]
    fn names_a_changed_secret() {
        for (mistake, key, says) in [
            ("secret_white_space", format!("{}\n", secret().expose()), "line end"),
            ("secret_white_space", format!(" {}", secret().expose()), "space before"),
            ("secret_quotes", format!("\"{}\"", secret().expose()), "quotes"),
            ("secret_prefix", "0123456789abcdef0123456789abcdef".to_owned(), "underscore"),
        ] {
            assert_mistake(mistake, &key, BODY, BODY, says);
        }
        // Binary keys, made by `openssl dgst -sha256 -mac HMAC -macopt hexkey:…` of the body `x`.
        let request = |signature: &str| RecordedRequest {
            signature: Some(signature.to_owned()),
            timestamp: None,
            body: b"x".to_vec(),
        };
        let now = Timestamp::from_second(NOW).unwrap();
        for (secret, signature, mistake) in [
            ("00112233445566778899aabbccddeeff", HEX_KEY, "secret_hex"),
            ("ABEiM0RVZneImaq7zN3u/w==", HEX_KEY, "secret_base64"),
            ("whsec_ABEiM0RVZneImaq7zN3u/w==", HEX_KEY, "secret_base64"),
        ] {
            let secrets = [Secret::new(secret)];
            let verdict = examine(&secrets, Scheme::Auto, Duration::from_mins(5), &request(signature), now);
            assert_eq!(verdict.mistake, Some(mistake), "{verdict:?}");
        }
    }

    const HEX_KEY: &str = "2e101866cfa265774af394c5c96796181603d09ba2784ee32b30eabce76abcfb";

    #[test]
    fn names_a_wrong_signature_timestamp_or_form() {
        let stamp = NOW.to_string();
        let body_form = sign(&secret(), None, BODY);
        let timestamped = sign(&secret(), Some(NOW), BODY);
        let base64 = STANDARD.encode(hex::decode(&body_form).unwrap());
        let old = sign(&secret(), Some(NOW - 900), BODY);
        let old_stamp = (NOW - 900).to_string();
        let glued = sign(&secret(), None, &[stamp.as_bytes(), BODY].concat());
        let milliseconds = format!("{stamp}000");
        for (signature, timestamp, scheme, mistake, says) in [
            (&body_form, Some(&stamp), Scheme::Timestamped, "other_scheme", "the body alone"),
            (&timestamped, Some(&stamp), Scheme::Body, "other_scheme", "{timestamp}.{body}"),
            (&base64, None, Scheme::Auto, "signature_base64", "hex"),
            (&STANDARD.encode(&body_form), None, Scheme::Auto, "signature_base64", "hex"),
            (&format!("v1={body_form}"), None, Scheme::Auto, "signature_prefix", "\"v1\""),
            (&old, Some(&old_stamp), Scheme::Auto, "skew", "900 s behind"),
            (&old, None, Scheme::Auto, "timestamp", "none was given"),
            (&old, Some(&stamp), Scheme::Auto, "timestamp", "(900 s ago)"),
            (&glued, Some(&stamp), Scheme::Auto, "separator", "dot"),
            (&timestamped, Some(&milliseconds), Scheme::Auto, "timestamp_milliseconds", "seconds"),
        ] {
            let verdict = verdict(signature, timestamp.map(String::as_str), scheme, BODY);
            assert_eq!((verdict.genuine, verdict.mistake), (false, Some(mistake)), "{verdict:?}");
            assert!(verdict.hint.contains(says), "{verdict:?}");
        }
    }

    #[test]
    fn names_two_mistakes() {
        let key = format!("{}\n", secret().expose());
        let body = [BODY, b"\n"].concat();
        let verdict = verdict(&sign(&Secret::new(key), None, BODY), None, Scheme::Auto, &body);
        assert!(verdict.hint.contains("secret number 2 and a line end"), "{verdict:?}");
        assert!(verdict.hint.contains("too many"), "{verdict:?}");
    }

    #[test]
    fn names_no_mistake_if_none_explains_the_signature() {
        let wrong = sign(&Secret::new("not-a-configured-secret"), None, BODY);
        for (signature, says) in [(wrong.as_str(), "rotated"), ("abc", "3 characters"), ("", "does not sign")]
        {
            let verdict = verdict(signature, None, Scheme::Auto, BODY);
            assert_eq!((verdict.genuine, verdict.mistake), (false, None), "{verdict:?}");
            assert!(verdict.hint.contains(says), "{verdict:?}");
        }
    }

    #[test]
    fn never_prints_a_secret() {
        let key = format!("\"{}\"", secret().expose());
        let verdict = verdict(&sign(&Secret::new(key), None, BODY), None, Scheme::Auto, BODY);
        assert!(!serde_json::to_string(&verdict).unwrap().contains("0123456789abcdef"), "{verdict:?}");
    }
}
