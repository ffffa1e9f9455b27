//! The variables of PolyAI's quickstarts, and the keys that they set.
//!
//! | variable | quickstart of June 2026 | current quickstart |
//! |---|---|---|
//! | `POLYAI_BASE_URL` | runtime host | `poly.ai` host |
//! | `POLYAI_PLATFORM_URL` | `poly.ai` host | - |
//! | `POLYAI_ACCOUNT_ID` | account | - |
//! | `POLYAI_PROJECT_ID`, `POLYAI_AGENT_ID` | the former | the latter: another name of the project |
//! | `POLYAI_API_KEY` | v3 key of the project, which the Data API takes, too | key of the workspace for the Data API |
//! | `POLYAI_CONVERSATIONS_API_KEY` | - | v3 key of the project |
//! | `POLYAI_WEBHOOK_SECRET` | signing secret | - |
//!
//! Both sets may be mixed. [`PolyAiConfig`](crate::polyai::PolyAiConfig) finds out which API a host serves.

use url::Url;

use crate::{
    polyai::{Api, Region},
    secret,
};

/// The variables of both sets.
pub(super) const VARIABLES: [&str; 8] = [
    "POLYAI_BASE_URL",
    "POLYAI_PLATFORM_URL",
    "POLYAI_ACCOUNT_ID",
    "POLYAI_PROJECT_ID",
    "POLYAI_AGENT_ID",
    "POLYAI_API_KEY",
    "POLYAI_CONVERSATIONS_API_KEY",
    "POLYAI_WEBHOOK_SECRET",
];

/// A value from a variable, without the quotes and the white space around it.
pub(super) struct Setting<'a> {
    pub(super) variable: &'static str,
    /// The path of the key.
    pub(super) path: &'static str,
    pub(super) text: &'a str,
}

/// The settings of the quickstarts' variables.
pub(super) struct Quickstart<'a> {
    pub(super) settings: Vec<Setting<'a>>,
    /// True if the variables are those of the current quickstart, which registers no webhook.
    pub(super) names_no_webhook: bool,
}

impl<'a> Quickstart<'a> {
    /// Reads the variables. `is_set_later` returns whether a later layer sets a key of the first project.
    pub(super) fn new(env: &'a [(String, String)], is_set_later: impl Fn(&str) -> bool) -> Self {
        let value = |name: &'static str| {
            let (_, value) = env.iter().find(|(known, _)| known == name)?;
            Some((name, secret::unwrapped(value))).filter(|(_, text)| !text.is_empty())
        };
        let (project, agent) = (value("POLYAI_PROJECT_ID"), value("POLYAI_AGENT_ID"));
        let (key, v3_key) = (value("POLYAI_API_KEY"), value("POLYAI_CONVERSATIONS_API_KEY"));
        let base_url = value("POLYAI_BASE_URL");
        // The archive's keys contain the project as it is configured, so an id that was set before stays.
        let mut found = vec![
            ("projects[0].account_id", value("POLYAI_ACCOUNT_ID")),
            ("projects[0].project_id", project.or(agent)),
            ("polyai.base_url", base_url),
            ("polyai.platform_url", value("POLYAI_PLATFORM_URL")),
            ("signature.secrets", value("POLYAI_WEBHOOK_SECRET")),
        ];
        // Keys of one project must not be mixed with those of another.
        if !is_set_later("api_key") {
            found.push(("projects[0].api_key", v3_key.or(key)));
            if v3_key.is_some() {
                found.push(("projects[0].data_api_key", key.filter(|_| !is_set_later("data_api_key"))));
            } else if is_workspace_key(base_url, project.is_none() && agent.is_some()) {
                // v3 refuses such a key for good.
                found.push(("projects[0].api", key.map(|(name, _)| (name, "data"))));
            }
        }
        let setting =
            |(path, value): (_, Option<_>)| value.map(|(variable, text)| Setting { variable, path, text });
        Self {
            settings: found.into_iter().filter_map(setting).collect(),
            names_no_webhook: agent.or(v3_key).is_some(),
        }
    }
}

/// Returns whether `POLYAI_API_KEY` alone is a key of the workspace: it is one for the host that it is used with.
fn is_workspace_key(base_url: Option<(&'static str, &str)>, is_current: bool) -> bool {
    let base_url = base_url.and_then(|(_, text)| text.parse::<Url>().ok());
    match base_url.and_then(|url| Region::served_by(&url)) {
        Some((_, api)) => api == Api::Data,
        None => is_current,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Roles, Sources};
    use crate::polyai::Target;

    const JUNE: [(&str, &str); 6] = [
        ("POLYAI_API_KEY", "v3-key"),
        ("POLYAI_BASE_URL", "https://api.uk-1.platform.polyai.app"),
        ("POLYAI_ACCOUNT_ID", "ws-1"),
        ("POLYAI_PROJECT_ID", "PROJECT-1"),
        ("POLYAI_WEBHOOK_SECRET", "0123456789abcdef0123"),
        ("POLYAI_PLATFORM_URL", "https://api.uk.poly.ai"),
    ];
    const CURRENT: [(&str, &str); 4] = [
        ("POLYAI_BASE_URL", "https://api.uk.poly.ai"),
        ("POLYAI_AGENT_ID", "PROJECT-1"),
        ("POLYAI_API_KEY", "workspace-key"),
        ("POLYAI_CONVERSATIONS_API_KEY", "v3-key"),
    ];

    type Variables = &'static [(&'static str, &'static str)];

    /// Loads a set of variables. `changes` set further ones; an empty value removes a variable.
    fn load(variables: &[(&str, &str)], changes: &[(&str, &str)], file: &str) -> Result<Config, String> {
        let is_changed = |name: &str| changes.iter().any(|(changed, _)| *changed == name);
        let kept = variables.iter().filter(|(name, _)| !is_changed(name));
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let env = kept.chain(changes).map(own).collect();
        let sources = Sources { file: Some(path.path().to_owned()), env, set: Vec::new() };
        Config::load(&sources).map_err(|error| error.to_string())
    }

    /// Returns each API with its host and key.
    fn targets(config: &Config) -> Vec<String> {
        let project = &config.projects[0];
        let data_key = project.data_api_key.as_ref().unwrap_or(&project.api_key);
        let target = |target: &Target| {
            let key = if target.api().label() == "v3" { &project.api_key } else { data_key };
            format!("{} {}", target.base().as_str().trim_end_matches('/'), key.expose())
        };
        Target::configured(&config.polyai, project).unwrap().iter().map(target).collect()
    }

    #[test]
    fn each_set_is_sufficient_alone_whichever_host_it_names() {
        let (runtime, platform) = ("https://api.uk-1.platform.polyai.app", "https://api.uk.poly.ai");
        let studio = "https://api.studio.poly.ai";
        let v3 = format!("{runtime} v3-key");
        let data = |key: &str| format!("{platform} {key}");
        let no_v3_key: Variables = &[("POLYAI_CONVERSATIONS_API_KEY", "")];
        let no_workspace_key: Variables = &[("POLYAI_API_KEY", "")];
        let cases: &[(Variables, Variables, Vec<String>)] = &[
            (&JUNE, &[], vec![v3.clone(), data("v3-key")]),
            (&JUNE, &[("POLYAI_PLATFORM_URL", "")], vec![v3.clone(), data("v3-key")]),
            (&CURRENT, &[], vec![v3.clone(), data("workspace-key")]),
            (
                &CURRENT,
                &[("POLYAI_BASE_URL", "https://api.uk-1.platform.polyai.app")],
                vec![v3.clone(), data("workspace-key")],
            ),
            (&CURRENT, &[("POLYAI_ACCOUNT_ID", "ws-1")], vec![v3.clone(), data("workspace-key")]),
            (
                &CURRENT,
                &[("POLYAI_BASE_URL", "\"https://api.uk.poly.ai/v1\"\r\n")],
                vec![v3.clone(), data("workspace-key")],
            ),
            (&CURRENT, no_workspace_key, vec![v3.clone(), data("v3-key")]),
            // The key of the workspace alone is not sent to v3, which refuses it.
            (&CURRENT, no_v3_key, vec![data("workspace-key")]),
            (
                &JUNE,
                &[("POLYAI_BASE_URL", "https://api.uk.poly.ai"), ("POLYAI_API_KEY", "workspace-key")],
                vec![data("workspace-key")],
            ),
            // The key is for the host that it is used with.
            (
                &CURRENT,
                &[
                    ("POLYAI_CONVERSATIONS_API_KEY", ""),
                    ("POLYAI_API_KEY", "v3-key"),
                    ("POLYAI_BASE_URL", "https://api.uk-1.platform.polyai.app"),
                ],
                vec![v3, data("v3-key")],
            ),
            (
                &CURRENT,
                &[("POLYAI_BASE_URL", "https://api.studio.poly.ai")],
                vec![format!("{studio} workspace-key")],
            ),
        ];
        for (variables, changes, expected) in cases {
            let config = load(variables, changes, "").unwrap();
            config.check(Roles::ALL).unwrap();
            assert_eq!(&targets(&config), expected, "{changes:?}");
            assert_eq!(config.projects[0].project_id, "PROJECT-1");
        }
        let both = load(&JUNE, &CURRENT, "").unwrap();
        assert_eq!(both.projects[0].account_id, "ws-1");
    }

    #[test]
    fn an_unknown_host_is_an_error_in_words() {
        for unknown in ["http://127.0.0.1:8088", "https://api.poly.ai", "https://gateway.example.com/polyai"]
        {
            for variables in [&JUNE[..], &CURRENT] {
                let alone = [("POLYAI_BASE_URL", unknown), ("POLYAI_PLATFORM_URL", "")];
                let error = load(variables, &alone, "").unwrap().check(Roles::ALL).unwrap_err().to_string();
                assert!(error.contains("POLYAI_BASE_URL") && !error.contains("gateway"), "{error}");
                let both = [("POLYAI_BASE_URL", "http://one:1"), ("POLYAI_PLATFORM_URL", "http://two:2")];
                let config = load(variables, &both, "").unwrap();
                config.check(Roles::ALL).unwrap();
                let hosts = targets(&config);
                assert!(hosts[0].starts_with("http://one:1 ") && hosts[1].starts_with("http://two:2 "));
            }
        }
    }

    #[test]
    fn only_the_current_set_works_without_a_signing_secret() {
        let check = |variables: &[(&str, &str)], file: &str, roles| {
            load(variables, &[("POLYAI_WEBHOOK_SECRET", "")], file).unwrap().check(roles)
        };
        check(&CURRENT, "", Roles::ALL).unwrap();
        for error in [
            check(&JUNE, "", Roles::ALL),
            check(&CURRENT, "", Roles::RECEIVE),
            check(&CURRENT, "reconcile.every = \"0s\"", Roles::ALL),
        ] {
            assert!(error.unwrap_err().to_string().contains("no signing secret is configured"));
        }
        let short = load(&CURRENT, &[("POLYAI_WEBHOOK_SECRET", "short")], "").unwrap().check(Roles::ALL);
        assert!(short.unwrap_err().to_string().contains("shorter than 16"));
    }

    #[test]
    fn keys_of_two_projects_are_not_mixed() {
        let file = "[[projects]]\naccount_id = \"a\"\nproject_id = \"p\"\napi_key = \"of-the-file\"\n";
        let config = load(&CURRENT, &[], file).unwrap();
        let project = &config.projects[0];
        assert_eq!((project.api_key.expose(), &project.data_api_key), ("of-the-file", &None));
        assert_eq!((&*project.project_id, project.api), ("p", None));
        let own =
            [("POLYHOOK__PROJECTS__0__API_KEY", "of-the-variable"), ("POLYAI_CONVERSATIONS_API_KEY", "")];
        let project = load(&CURRENT, &own, "").unwrap().projects.remove(0);
        assert_eq!((project.api_key.expose(), project.api), ("of-the-variable", None));
        let own = [("POLYHOOK__PROJECTS__0__DATA_API_KEY", "of-the-variable")];
        let project = load(&CURRENT, &own, "").unwrap().projects.remove(0);
        assert_eq!(project.data_api_key.unwrap().expose(), "of-the-variable");
        assert_eq!(project.api_key.expose(), "v3-key");
    }

    #[test]
    fn an_account_may_be_missing_where_the_data_api_tells_it() {
        let file = |api: &str| format!("polyai.api = \"{api}\"\n");
        load(&CURRENT, &[], &file("data")).unwrap().check(Roles::WORK).unwrap();
        let second = "[[projects]]\n[[projects]]\naccount_id = \"a\"\nproject_id = \"p\"\napi_key = \"k\"\n";
        for file in [&*file("v3"), second] {
            let own = [("POLYHOOK__PROJECTS__0__PROJECT_ID", "PROJECT-1")];
            let error = load(&CURRENT, &own, file)
                .and_then(|config| config.check(Roles::WORK).map_err(|error| error.to_string()));
            assert!(error.as_ref().is_err_and(|error| error.contains("account_id")), "{error:?}");
        }
    }
}
