//! The log of a program: on standard error, filtered by `RUST_LOG`.

use std::ffi::OsStr;
use std::io::IsTerminal;

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
///
/// The Kubernetes client is silent by default: a call that failed is logged by whoever made it, with what it was for.
pub fn init(form: Form, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| format!("{default},kube_client=off").into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(coloured(
            std::io::stderr().is_terminal(),
            std::env::var_os("NO_COLOR").as_deref(),
        ))
        .with_writer(std::io::stderr);
    let begun = match form {
        Form::Text => log.try_init(),
        Form::Json => log.json().try_init(),
    };
    if let Err(error) = begun {
        tracing::debug!(%error, "there is a log already");
    }
}

/// Says whether the log is coloured: on a terminal alone, and not where `NO_COLOR` (<https://no-color.org>) is set.
fn coloured(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_whose_user_does_not_refuse_them_gets_colours() {
        let table = [
            (true, None, true),
            (true, Some(""), true),
            (true, Some("1"), false),
            (false, None, false),
            (false, Some(""), false),
        ];
        for (terminal, no_color, colours) in table {
            assert_eq!(
                coloured(terminal, no_color.map(OsStr::new)),
                colours,
                "{terminal} {no_color:?}"
            );
        }
    }
}
