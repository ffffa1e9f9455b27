//! The variables of polyhook: `POLYHOOK__SECTION__KEY`.
//!
//! A variable that looks like one, but is spelled wrongly, would have no effect, so it is an error. Kubernetes puts the
//! addresses of all services into the environment of each pod; those of a service `polyhook` or `polyhook-admin` look similar
//! and mean nothing here.

use std::fmt::Write;

use super::{
    error::LocatedProblem,
    keys::{Key, Keys},
    origin::Origin,
    quickstart,
};

/// Prefix of polyhook's own variables.
const PREFIX: &str = "POLYHOOK__";
/// Their first word.
const WORD: &str = "POLYHOOK";

/// Variables with another meaning: of the command line, `deploy/` and the tests.
const OTHERS: [&str; 5] = [CONFIG, "POLYHOOK_BIN", "POLYHOOK_IMAGE", "POLYHOOK_LISTEN", "POLYHOOK_SETTINGS"];
const TESTS: &str = "POLYHOOK_TEST_";

/// Names the configuration file.
const CONFIG: &str = "POLYHOOK_CONFIG";
/// Minimum similarity of a name that is a mistyped one (normalized Damerau-Levenshtein).
const MIN_SIMILARITY: f64 = 0.81;

/// Returns the key that a variable sets, or the error in its name. `None`: the variable is not polyhook's.
pub(super) fn key_of(keys: &Keys, name: &str, value: &str) -> Option<Result<Key, LocatedProblem>> {
    let mistyped = |right: &str| {
        let message = format!("this variable has no effect; did you mean {right}?");
        Some(Err(LocatedProblem::new(Origin::Variable(name.to_owned()), None, message)))
    };
    if let Some(right) = quickstart::VARIABLES.into_iter().find(|right| resembles(name, right)) {
        return mistyped(right);
    }
    let unknown = |message: String, path: &str| {
        let nearest = keys.nearest(path);
        let suggestion = match &nearest {
            Some(key) => format!("did you mean {} for {key}?", key.variable()),
            None => "`polyhook config schema` lists all keys".to_owned(),
        };
        LocatedProblem::new(Origin::Variable(name.to_owned()), None, format!("{message}; {suggestion}"))
            .suggesting(nearest.map(|key| key.to_string()))
    };
    let is_foreign = OTHERS.contains(&name) || name.starts_with(TESTS) || is_of_kubernetes(name, value);
    if !is_foreign && is_for_config_file(name) {
        return mistyped(CONFIG);
    }
    if let Some(rest) = name.strip_prefix(PREFIX) {
        let path = path_of(rest);
        return Some(keys.parse(&path).ok_or_else(|| unknown(format!("there is no key {path}"), &path)));
    }
    let (word, rest) = name.split_at_checked(WORD.len())?;
    let path = rest.trim_start_matches('_');
    let is_similar = word.eq_ignore_ascii_case(WORD)
        && !is_foreign
        && (rest.starts_with('_')
            && (path.contains("__") || rest.starts_with("__") || keys.resembles_key(path))
            || path.contains("__") && keys.resembles_key(path));
    is_similar.then(|| {
        let message = "this variable has no effect: polyhook reads POLYHOOK__SECTION__KEY, in capitals and with two underscores";
        Err(unknown(message.to_owned(), &path_of(path)))
    })
}

/// Returns whether a name is a mistyped form of `right`.
fn resembles(name: &str, right: &str) -> bool {
    let (Some((word, rest)), Some((right_word, right_rest))) = (name.split_once('_'), right.split_once('_'))
    else {
        return false;
    };
    let letters = |text: &str| text.replace('_', "").to_uppercase();
    let similarity = strsim::normalized_damerau_levenshtein(&letters(rest), &letters(right_rest));
    name != right && word.eq_ignore_ascii_case(right_word) && similarity >= MIN_SIMILARITY
}

/// Returns whether a person who sets this variable probably wants to name the configuration file: `POLYHOOK_CONFG`,
/// `POLYHOOK_CONFIG_FILE`.
fn is_for_config_file(name: &str) -> bool {
    let rest = name.split_once('_').map(|(_, rest)| rest.trim_start_matches('_').to_uppercase());
    let of_file = rest.as_deref().map(|rest| {
        ["_FILE", "_PATH"].iter().find_map(|end| rest.strip_suffix(end)).unwrap_or(rest).to_owned()
    });
    let is_polyhooks = name.get(..WORD.len()).is_some_and(|word| word.eq_ignore_ascii_case(WORD));
    is_polyhooks
        && name != CONFIG
        && of_file.is_some_and(|rest| rest == "CONFIG" || resembles(&format!("{WORD}_{rest}"), CONFIG))
}

/// `SERVER__ACK_BUDGET` is `server.ack_budget`, `PROJECTS__0__API_KEY` is `projects[0].api_key`.
fn path_of(name: &str) -> String {
    let mut path = String::new();
    for part in name.split("__") {
        if part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty() {
            let _ = write!(path, "[{part}]");
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&part.to_lowercase());
        }
    }
    path
}

/// Returns whether Kubernetes names the address of a service like this: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT[_PORTNAME]`,
/// `NAME_PORT` and `NAME_PORT_NUMBER_PROTOCOL[_PROTO|_PORT|_ADDR]`
/// (<https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables>). The value of
/// `NAME_PORT` is a URL, and a person who means a key writes a number.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let is_plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let is_port = |rest: &str| {
        let mut parts = rest.splitn(3, '_');
        let number = parts.next().unwrap_or_default();
        number.parse::<u16>().is_ok()
            && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
            && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
    };
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    is_plain(name)
        && (name.ends_with("_SERVICE_HOST")
            || name.ends_with("_SERVICE_PORT")
            || name.ends_with("_PORT") && is_url
            || name.contains("_SERVICE_PORT_")
            || name.match_indices("_PORT_").any(|(at, word)| is_port(&name[at + word.len()..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_of(name: &str) -> Option<String> {
        message_with(name, "")
    }

    fn message_with(name: &str, value: &str) -> Option<String> {
        match key_of(&Keys::new(), name, value)? {
            Ok(key) => panic!("{name} sets {key}"),
            Err(problem) => Some(problem.to_string()),
        }
    }

    #[test]
    fn names_the_key_of_a_variable() {
        let keys = Keys::new();
        for (name, key) in [
            ("POLYHOOK__WORKER__CONCURRENCY", "worker.concurrency"),
            ("POLYHOOK__worker__concurrency", "worker.concurrency"),
            ("POLYHOOK__PROJECTS__12__API_KEY", "projects[12].api_key"),
        ] {
            assert_eq!(key_of(&keys, name, "").unwrap().unwrap().to_string(), key);
        }
    }

    #[test]
    fn a_name_that_looks_like_a_key_is_an_error_with_the_right_name() {
        for (name, right) in [
            ("POLYHOOK_WORKER__CONCURRENCY", "POLYHOOK__WORKER__CONCURRENCY"),
            ("POLYHOOK_WORKER_CONCURRENCY", "POLYHOOK__WORKER__CONCURRENCY"),
            ("POLYHOOK__WORKER_CONCURRENCY", "POLYHOOK__WORKER__CONCURRENCY"),
            ("POLYHOOK__WORKER__CONCURENCY", "POLYHOOK__WORKER__CONCURRENCY"),
            ("POLYHOOK___WORKER__CONCURRENCY", "POLYHOOK__WORKER__CONCURRENCY"),
            ("POLYHOOK__WORKER___CONCURRENCY", "POLYHOOK__WORKER__CONCURRENCY"),
            ("POLYHOOK__WORKER__CONCURRENCY__", "POLYHOOK__WORKER__CONCURRENCY"),
            ("POLYHOOK__WROKER__CONCURRENCY", "POLYHOOK__WORKER__CONCURRENCY"),
            ("POLYHOOK_WORKER_CONCURENCY", "POLYHOOK__WORKER__CONCURRENCY"),
            ("POLYHOOKWORKER__CONCURRENCY", "POLYHOOK__WORKER__CONCURRENCY"),
            ("POLYHOOK_CONCURRENCY", "POLYHOOK__WORKER__CONCURRENCY"),
            ("polyhook__worker__concurrency", "POLYHOOK__WORKER__CONCURRENCY"),
            ("Polyhook__Worker__Concurrency", "POLYHOOK__WORKER__CONCURRENCY"),
            ("polyhook_worker_concurrency", "POLYHOOK__WORKER__CONCURRENCY"),
            ("POLYHOOK__SERVR__LISTEN", "POLYHOOK__SERVER__LISTEN"),
            ("POLYHOOK__ACK_BUDGET", "POLYHOOK__SERVER__ACK_BUDGET"),
            ("POLYHOOK__CONCURRENCY__WORKER", ""),
            ("POLYHOOK_LOG_LEVEL", "POLYHOOK__LOG__LEVEL"),
            ("POLYHOOK_LOG", ""),
            ("POLYHOOK_API_KEY", "POLYHOOK__PROJECTS__0__API_KEY"),
            ("POLYHOOK__PROJECTS__API_KEY", "POLYHOOK__PROJECTS__0__API_KEY"),
            ("POLYHOOK__PROJECTS__2__APIKEY", "POLYHOOK__PROJECTS__2__API_KEY"),
            ("POLYHOOK_PROJECTS_0_API_KEY_FILE", "POLYHOOK__PROJECTS__0__API_KEY_FILE"),
            ("POLYHOOK_SERVER_PORT", ""),
            ("POLYHOOK_CONFG", "POLYHOOK_CONFIG?"),
            ("POLYHOOK_CONFIG_FILE", "POLYHOOK_CONFIG?"),
            ("POLYHOOK_CONFIG_PATH", "POLYHOOK_CONFIG?"),
            ("POLYHOOK_CONFIGS", "POLYHOOK_CONFIG?"),
            ("POLYHOOK__CONFIG", "POLYHOOK_CONFIG?"),
            ("polyhook_config", "POLYHOOK_CONFIG?"),
            ("POLYAI_APIKEY", "POLYAI_API_KEY?"),
            ("POLYAI_API_KEYS", "POLYAI_API_KEY?"),
            ("polyai_api_key", "POLYAI_API_KEY?"),
            ("POLYAI__API_KEY", "POLYAI_API_KEY?"),
            ("POLYAI_WEBHOOK_SECRETS", "POLYAI_WEBHOOK_SECRET?"),
            ("POLYAI_WEBHOK_SECERT", "POLYAI_WEBHOOK_SECRET?"),
            ("POLYAI_BASEURL", "POLYAI_BASE_URL?"),
            ("POLYAI_CONVERSATION_API_KEY", "POLYAI_CONVERSATIONS_API_KEY?"),
            ("POLYHOOK__", ""),
            ("POLYHOOK__SERVER", ""),
            ("POLYHOOK__ZZZ__QQQ", "polyhook config schema"),
        ] {
            let message = message_of(name).unwrap_or_else(|| panic!("{name} is ignored"));
            assert!(message.starts_with(&format!("{name}: ")) && message.contains(right), "{message}");
        }
    }

    #[test]
    fn variables_of_others_mean_nothing() {
        for service in [
            "POLYHOOK",
            "POLYHOOK_ADMIN",
            "POLYHOOK_SERVER",
            "POLYHOOK_WORKER",
            "POLYHOOK_QUEUE_1",
            "POLYHOOK2",
        ] {
            for rest in [
                "SERVICE_HOST",
                "SERVICE_PORT",
                "SERVICE_PORT_HTTP",
                "SERVICE_PORT_HTTP_METRICS",
                "PORT",
                "PORT_8080_TCP",
                "PORT_8080_TCP_ADDR",
                "PORT_9090_TCP_PROTO",
                "PORT_9090_UDP_PORT",
                "PORT_65535_SCTP",
            ] {
                let value = if rest == "PORT" { "tcp://10.0.0.1:8080" } else { "8080" };
                assert_eq!(message_with(&format!("{service}_{rest}"), value), None, "{service}_{rest}");
            }
        }
        for name in [
            "POLYHOOK_CONFIG",
            "POLYHOOK_TEST_LONG",
            "POLYHOOK_IMAGE",
            "POLYHOOK_HOME",
            "POLYHOOK_VERSION",
            "POLYHOOK",
            "POLYHOOKS_URL",
            "POLYAI_API_KEY",
            "POLYAI_WEBHOOK_SECRET",
            "POLYAI_WEBHOOK_URL",
            "POLYAI_REGION",
            "POLYAI_PROJECT_DIR",
            "POLYAI_TIMEOUT",
            "POLYAI_",
            "POLYAI",
            "PATH",
            "ünïcödé",
        ] {
            assert_eq!(message_of(name), None, "{name}");
        }
    }
}
