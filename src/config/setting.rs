//! Values from variables and flags.

use config::{Value, ValueKind};

use crate::secret::Secret;

/// A value from a variable or a flag, without the quotes and the white space that `docker --env-file` and
/// `kubectl create secret` keep around it.
pub(super) struct Setting<'a> {
    /// The name of the variable, or the flag with its key.
    pub(super) source: String,
    /// The dotted path of the key.
    pub(super) path: String,
    pub(super) text: &'a str,
}

impl Setting<'_> {
    /// Returns the reason why this value cannot be right, without showing it.
    pub(super) fn problem(&self, value: &Value) -> Option<String> {
        let problem = match &value.kind {
            ValueKind::Array(items) => items.iter().find_map(|item| self.problem_of(item)),
            _ => self.problem_of(value),
        };
        problem.map(|problem| format!("{}: {problem}; give the value alone", self.source))
    }

    fn problem_of(&self, value: &Value) -> Option<&'static str> {
        let ValueKind::String(text) = &value.kind else { return None };
        let secret = Secret::new(text.as_str());
        // The ids and secrets that PolyAI issues contain no spaces. Other values may.
        let is_polyais = self.source.starts_with("POLYAI_")
            || self.path == "signature.secrets"
            || self.path == "trigger.token"
            || self.path.ends_with("api_key");
        if is_polyais { secret.token_problem() } else { secret.password_problem() }
    }
}
