//! One turn of a conversation.

/// One turn: the caller's words and the agent's answer. Times are milliseconds from the start of the call.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "these facts of a turn are independent in PolyAI's API")]
pub(crate) struct Turn {
    pub(crate) user: String,
    pub(crate) user_english: String,
    pub(crate) user_from: u64,
    pub(crate) user_to: u64,
    pub(crate) dtmf: String,
    pub(crate) agent: String,
    pub(crate) agent_english: String,
    pub(crate) agent_from: u64,
    pub(crate) agent_to: u64,
    pub(crate) silence: bool,
    pub(crate) out_of_domain: bool,
    pub(crate) barge_in: bool,
    /// The turn contains private data. It is muted in the redacted recording.
    pub(crate) private: bool,
    pub(crate) intent: Option<&'static str>,
    pub(crate) entity: Option<(&'static str, String)>,
}

impl Turn {
    /// Returns the seconds from the caller's last word to the agent's first word.
    #[expect(clippy::cast_precision_loss, reason = "the milliseconds of a call are far below 2^52")]
    pub(crate) fn latency(&self) -> f64 {
        self.agent_from.saturating_sub(self.user_to) as f64 / 1000.0
    }
}
