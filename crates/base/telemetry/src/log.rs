//! Logs: `tracing` events as text for a person or as JSON lines for a machine.
//!
//! Lines go through a bounded queue to a thread of their own, so a slow terminal or a full pipe
//! never stops a shard; what does not fit is dropped and counted. The filter can be replaced while
//! the process runs.

mod sink;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use self::sink::Sink;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// What to log and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How a line looks.
    pub format: Format,
    /// What is logged.
    pub filter: Filter,
}

/// Which events are logged: a level (`info`), and levels of modules (`info,ratatosk_mqtt=debug`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    directives: String,
}

/// Logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator's filter is not understood; nothing was changed.
    #[error("{directives:?} is no log level: {reason}")]
    Filter {
        /// What was given.
        directives: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The thread that writes cannot be started.
    #[error("cannot start the log thread: {0}")]
    Thread(#[from] io::Error),
    /// Another subscriber is installed; logs go there.
    #[error("logging is already set up")]
    AlreadySet,
}

/// From silent to everything.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Filter {
    /// Parses directives.
    ///
    /// # Errors
    /// [`Error::Filter`] when one is not understood.
    pub fn parse(directives: &str) -> Result<Self, Error> {
        let error = |reason: String| Error::Filter { directives: directives.to_owned(), reason };
        let directives = directives.trim();
        if directives.is_empty() {
            return Err(error("a level or module=level is expected".to_owned()));
        }
        for directive in directives.split(',').map(str::trim) {
            let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
            if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
                return Err(error(format!("{level:?} is none of {}", LEVELS.join(", "))));
            }
        }
        EnvFilter::builder().parse(directives).map_err(|refused| error(refused.to_string()))?;
        Ok(Self { directives: directives.to_owned() })
    }

    /// The directives as they were given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.directives
    }

    fn build(&self) -> EnvFilter {
        // Parsed before, so nothing is skipped.
        EnvFilter::builder().parse_lossy(&self.directives)
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self { directives: "info".to_owned() }
    }
}

impl Format {
    /// The format for an output that is a terminal or not: never [`Format::Auto`].
    #[must_use]
    pub fn resolve(self, terminal: bool) -> Self {
        match self {
            Self::Auto if terminal => Self::Text,
            Self::Auto => Self::Json,
            chosen => chosen,
        }
    }
}

/// The running log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    filter: reload::Handle<EnvFilter, Registry>,
    sink: Sink,
}

impl Handle {
    /// Replaces the filter.
    pub fn refilter(&self, filter: &Filter) {
        // It fails only when the subscriber is gone, and then there is nothing to filter.
        let _ = self.filter.reload(filter.build());
    }

    /// Lines that did not fit into the queue, so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }

    /// Waits until everything logged so far is written, at most so long.
    pub fn flush(&self, patience: Duration) {
        self.sink.flush(patience);
    }
}

/// Installs the log of the process on standard output.
///
/// # Errors
/// [`Error::AlreadySet`] the second time, [`Error::Thread`] when the machine gives no thread.
pub fn install(config: &Config) -> Result<Handle, Error> {
    let output = io::stdout();
    let terminal = output.is_terminal();
    let (dispatch, handle) = build(config, terminal, Box::new(output))?;
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| Error::AlreadySet)?;
    Ok(handle)
}

fn build(
    config: &Config,
    terminal: bool,
    output: Box<dyn io::Write + Send>,
) -> Result<(tracing::Dispatch, Handle), Error> {
    let sink = Sink::start(output)?;
    let (filter, filter_handle) = reload::Layer::new(config.filter.build());
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(sink.clone()).with_ansi(terminal);
    let dispatch = match config.format.resolve(terminal) {
        Format::Json => registry
            .with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false))
            .into(),
        Format::Auto | Format::Text => registry.with(layer).into(),
    };
    Ok((dispatch, Handle { filter: filter_handle, sink }))
}

#[cfg(test)]
#[path = "log_test.rs"]
mod tests;
