//! The log of a program: on standard error, filtered by `RUST_LOG`.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins to log; `default` is the filter where `RUST_LOG` says none. A log that runs already is left as it is.
pub fn init(form: Form, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let begun = match form {
        Form::Text => log.try_init(),
        Form::Json => log.json().try_init(),
    };
    if let Err(error) = begun {
        tracing::debug!(%error, "there is a log already");
    }
}
