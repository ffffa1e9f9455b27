//! The checks of a merged configuration: what the modules say about their own sections, and what contradicts each other.

use super::{Config, ConfigError, Roles, error::LocatedProblem};
use crate::{
    archive::Archive,
    clock::Clock,
    polyai,
    problem::Problem,
    queue::{QueueBackend, rabbitmq},
    telemetry,
};

impl Config {
    /// Checks everything that `roles` require. Returns all errors at once.
    pub fn check(&self, roles: Roles) -> Result<(), ConfigError> {
        let problems: Vec<_> = self.problems(roles).iter().map(|problem| self.locate(problem)).collect();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError(problems)) }
    }

    /// Adds where the value comes from.
    pub fn locate(&self, problem: &Problem) -> LocatedProblem {
        let (key, origin) = self.origins.locate(problem.key());
        LocatedProblem::new(origin, Some(key), problem.message()).fix(problem.next_step())
    }

    /// Returns everything that keeps a process with these roles from working.
    pub(super) fn problems(&self, roles: Roles) -> Vec<Problem> {
        let mut problems = Vec::new();
        if roles.receive {
            if !self.works_without_webhook(roles) {
                problems.extend(self.signature.problems());
            }
            problems.extend(self.server.problems(&self.admin));
            let trigger = self.trigger.problems(&self.server.path);
            let is_trigger_usable = trigger.is_empty();
            problems.extend(trigger);
            problems.extend(self.reused_token_problem().filter(|_| is_trigger_usable));
        }
        if roles.work || roles.reconcile {
            self.check_archiving(&mut problems);
        }
        if self.serves_console(roles) {
            self.check_console(roles, &mut problems);
        }
        problems.extend(self.retry.problem());
        problems.extend(self.queue_problems());
        problems.extend(self.tracing.problems());
        let level = telemetry::validate_level(&self.log.level);
        problems.extend(level.err().map(|error| Problem::new("log.level", error.to_string())));
        problems
    }

    fn queue_problems(&self) -> Vec<Problem> {
        match self.queue.backend() {
            Ok(QueueBackend::Sqlite(path)) if path == self.spool.path => vec![
                Problem::new("spool.path", "it is the embedded queue's own file; the spool is for RabbitMQ")
                    .fix("leave it empty")
                    .with("queue.url"),
            ],
            Ok(QueueBackend::Sqlite(_)) => Vec::new(),
            Ok(QueueBackend::RabbitMq) => rabbitmq::check_config(&self.queue),
            Err(error) => vec![Problem::new("queue.url", error.to_string()).with("queue.url_file")],
        }
    }

    /// Returns an error if a token of the trigger is another secret as well: whoever may name a conversation could then
    /// sign deliveries, or read all conversations.
    fn reused_token_problem(&self) -> Option<Problem> {
        let signing = self.signature.valid(Clock::System.now());
        let keys =
            self.projects.iter().flat_map(|project| [Some(&project.api_key), project.data_api_key.as_ref()]);
        let others: Vec<_> = keys.flatten().chain(&signing).collect();
        let is_reused = self.trigger.is_on() && self.trigger.tokens().any(|token| others.contains(&token));
        is_reused.then(|| {
            Problem::new(
                "trigger.token",
                "a trigger token is a signing secret or an API key, which the token's holder would then have",
            )
            .fix("make a new token (`openssl rand -hex 32`)")
        })
    }

    /// Checks what the console requires.
    fn check_console(&self, roles: Roles, problems: &mut Vec<Problem>) {
        if !roles.work && !roles.reconcile {
            problems.extend(Archive::check_config(&self.archive));
            problems.extend(self.index.problems());
        }
        let mut others = Vec::new();
        if roles.receive {
            others.push(("server.listen", self.server.listen));
        }
        if roles != Roles::CONSOLE {
            others.push(("admin.listen", self.admin.listen));
        }
        let console = self.console.problems(&others);
        let is_usable = console.is_empty();
        problems.extend(console);
        problems.extend(self.reused_console_token_problem().filter(|_| is_usable));
    }

    /// Returns an error if a token of the console is another secret as well: those who may look could then sign deliveries,
    /// use PolyAI's API or the archive, or the other way round.
    fn reused_console_token_problem(&self) -> Option<Problem> {
        let signing = self.signature.valid(Clock::System.now());
        let keys =
            self.projects.iter().flat_map(|project| [Some(&project.api_key), project.data_api_key.as_ref()]);
        let own = [self.archive.secret_access_key.as_ref(), self.index.numbers_key.as_ref()];
        let others: Vec<_> = keys.chain(own).flatten().chain(&signing).chain(self.trigger.tokens()).collect();
        self.console.tokens().any(|token| others.contains(&token)).then(|| {
            Problem::new(
                "console.token",
                "a token of the console is another secret as well (a signing secret, an API key, a trigger token or a key), which \
                 those who may look would then have",
            )
            .with("console.token_file")
            .fix("make a new token (`openssl rand -hex 32`)")
        })
    }

    /// Checks what the worker and reconciliation require.
    fn check_archiving(&self, problems: &mut Vec<Problem>) {
        if self.projects.is_empty() {
            problems.push(Problem::new(
                "projects",
                "no project is configured, so no conversation could be fetched: add [[projects]] with account_id, project_id and \
                 api_key_file, or set the variables of PolyAI's quickstart (POLYAI_AGENT_ID or POLYAI_PROJECT_ID, POLYAI_API_KEY, …)",
            ));
        }
        problems.extend(polyai::check_config(&self.polyai, &self.projects));
        problems.extend(Archive::check_config(&self.archive));
        problems.extend(self.worker.problems());
        problems.extend(self.refresh.problems());
        problems.extend(self.reconcile.problems());
        problems.extend(self.index.problems());
    }
}
