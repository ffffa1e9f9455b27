//! The configuration as a person sees it: with what defaults lead to, with the layer of each value, and without secrets.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Config, origin::Origin};
use crate::{polyai::Target, secret, terminal};

/// Values up to this width are followed by their layer in one column.
const MAX_COLUMN: usize = 44;

/// The effective configuration, for `polyhook config show`.
#[derive(Debug)]
pub struct ShownConfig {
    config: Config,
}

/// The hosts that serve a project.
#[derive(Debug, Serialize)]
struct ProjectHosts<'a> {
    project_id: &'a str,
    #[serde(flatten)]
    targets: Map<String, Value>,
}

impl Config {
    /// Returns the configuration with the region and the hosts that it leads to.
    pub fn shown(&self) -> ShownConfig {
        let mut config = self.clone();
        for project in &mut config.projects {
            project.region = self.polyai.effective_region(project.region).ok().flatten();
        }
        // If the hosts contradict each other, `check` says so. They are shown as they are.
        config.polyai = self.polyai.resolved().unwrap_or_else(|_| self.polyai.clone());
        for (shown, own) in [
            (&mut config.polyai.base_url, &self.polyai.base_url),
            (&mut config.polyai.platform_url, &self.polyai.platform_url),
        ] {
            if let (Some(shown), Some(own)) = (shown, own)
                && shown.host() == own.host()
            {
                shown.set_query(own.query());
            }
        }
        ShownConfig { config }
    }
}

impl ShownConfig {
    /// Returns TOML that is followed by the layer of each value as a comment, and by the hosts of each project.
    pub fn toml(&self) -> Result<String, toml::ser::Error> {
        let text = toml::to_string(&self.config)?;
        let (mut section, mut entry) = (String::new(), None);
        let mut lines = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("[[").and_then(|name| name.strip_suffix("]]")) {
                entry = Some(entry.filter(|_| section == name).map_or(0, |entry: usize| entry + 1));
                name.clone_into(&mut section);
                lines.push(line.to_owned());
            } else if let Some(name) = line.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
                (section, entry) = (name.to_owned(), None);
                lines.push(line.to_owned());
            } else {
                let path = match entry {
                    Some(entry) => format!("{section}[{entry}]."),
                    None if section.is_empty() => String::new(),
                    None => format!("{section}."),
                };
                lines.push(self.with_layer(line, &path));
            }
        }
        lines.extend(self.config.projects.iter().map(|project| {
            let hosts = match Target::configured(&self.config.polyai, project) {
                Ok(targets) => {
                    let host =
                        |target: &Target| format!("{} at {}", target.api().label(), target.host_and_port());
                    targets.iter().map(host).collect::<Vec<_>>().join(", ")
                }
                Err(error) => format!("no host: {error}"),
            };
            format!("# project {}: {hosts}", terminal::escape(&project.project_id))
        }));
        Ok(lines.join("\n"))
    }

    /// Returns one line of TOML without secrets and with the layer of its value, if the line is a whole key and value.
    fn with_layer(&self, line: &str, path: &str) -> String {
        let Ok(table) = line.parse::<toml::Table>() else { return line.to_owned() };
        let Some((name, value)) = table.into_iter().next() else { return line.to_owned() };
        let line = match value.as_str().map(|text| (text, redact(&name, text))) {
            Some((text, shown)) if text != shown => format!("{name} = {}", toml::Value::String(shown)),
            _ => line.to_owned(),
        };
        let origin = self.origin(&format!("{path}{name}")).to_string();
        format!("{line:<MAX_COLUMN$}  # {}", terminal::escape(&origin))
    }

    /// Returns the configuration in the form of the TOML file, and below it `layers`, the layer of each key, and `hosts`, the
    /// hosts of each project.
    pub fn json(&self) -> Result<Value, serde_json::Error> {
        let mut root = serde_json::to_value(&self.config)?;
        let mut layers = Map::new();
        if let Some(sections) = root.as_object_mut() {
            for (section, value) in sections {
                self.collect_layers(section, value, &mut layers);
            }
        }
        let hosts: Vec<_> = self
            .config
            .projects
            .iter()
            .map(|project| {
                let targets = Target::configured(&self.config.polyai, project).unwrap_or_default();
                let targets = targets.iter().map(|target| {
                    (target.api().label().to_owned(), json!(secret::redact_url(target.base().as_str())))
                });
                ProjectHosts { project_id: &project.project_id, targets: targets.collect() }
            })
            .collect();
        root["hosts"] = serde_json::to_value(hosts)?;
        root["layers"] = Value::Object(layers);
        Ok(root)
    }

    /// Adds the layer of each key at `path` that has a value, and hides what may be secret in it.
    fn collect_layers(&self, path: &str, value: &mut Value, layers: &mut Map<String, Value>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.collect_layers(&format!("{path}.{name}"), value, layers);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (entry, value) in items.iter_mut().enumerate() {
                    self.collect_layers(&format!("{path}[{entry}]"), value, layers);
                }
            }
            Value::Null => {}
            value => {
                if let Value::String(text) = value {
                    *text = redact(path, text);
                }
                layers.insert(path.to_owned(), json!(self.origin(path)));
            }
        }
    }

    /// Returns the layer of a value. A value that follows from another key has the layer of that one.
    fn origin(&self, path: &str) -> Origin {
        let origins = &self.config.origins;
        // A key in a file was read into the key itself.
        let own = origins.find(path).map(|(_, origin)| origin).unwrap_or_default();
        let is_resolved = matches!(path, "polyai.region" | "polyai.base_url" | "polyai.platform_url")
            || path.starts_with("projects[") && path.ends_with(".region");
        if own != Origin::Default || !is_resolved {
            return own;
        }
        let from = ["polyai.region", "polyai.base_url", "polyai.platform_url"].map(|key| origins.of(key));
        from.into_iter().find(|origin| *origin != Origin::Default).unwrap_or_default()
    }
}

/// Returns the value of a key without what may be secret in it, if it is a URL or should be one.
fn redact(key: &str, text: &str) -> String {
    let is_url_key = key.ends_with("url") || key.ends_with("endpoint");
    if text.contains("://") || is_url_key && text.contains(['@', '?', '#']) {
        secret::redact_url(text)
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_secrets_and_nothing_else() {
        for (key, text, shown) in [
            ("archive.url", "s3://bucket/prefix", "s3://bucket/prefix"),
            ("archive.url", "s3:/key:hunter2@bucket", "[redacted]"),
            ("archive.endpoint", "user:hunter2@minio", "[redacted]"),
            ("archive.endpoint", "minio:9000", "minio:9000"),
            ("queue.url", "amqps://u:[redacted]@h?keyfile=/k.pem", "amqps://u:[redacted]@h?keyfile=/k.pem"),
            ("queue.url", "sqlite:///var/lib/a@b/queue.db", "sqlite:///var/lib/a@b/queue.db"),
            ("queue.ca_file", "/etc/a@b.pem", "/etc/a@b.pem"),
            ("polyai.base_url", "https://h/?x=1", "https://h/?x=[redacted]"),
        ] {
            assert_eq!(redact(key, text), shown, "{key}");
        }
        let mut config = Config::default();
        config.polyai.base_url = "https://api.us-1.platform.polyai.app/v3?x=1".parse().ok();
        let shown = config.shown().toml().unwrap();
        assert!(
            shown.contains("base_url = \"https://api.us-1.platform.polyai.app/?x=[redacted]\""),
            "{shown}"
        );
    }
}
