//! Finding a step's program before the step runs.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Words that the shell itself understands.
const SHELL_WORDS: &[&str] = &[
    ".", ":", "[", "alias", "bg", "break", "case", "cd", "command", "continue", "do", "done", "echo", "elif", "else",
    "esac", "eval", "exec", "exit", "export", "false", "fg", "fi", "for", "function", "getopts", "hash", "if", "in",
    "jobs", "kill", "local", "printf", "pwd", "read", "readonly", "return", "set", "shift", "source", "test", "then",
    "time", "times", "trap", "true", "type", "ulimit", "umask", "unalias", "unset", "until", "wait", "while", "{", "}",
    "!",
];

/// A program as it was when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    path: PathBuf,
    identity: [i64; 7],
}

/// What a look-up found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The program.
    Program(Program),
    /// Nothing of that name on PATH, or no such absolute path.
    Missing(String),
    /// The command does not begin with a plain program; the shell will tell.
    Unclear,
}

/// Looks up the program of `command`.
pub(super) fn look_up(command: &str, path: Option<&OsStr>) -> Found {
    let Some(word) = first_program(command) else {
        return Found::Unclear;
    };
    if word.contains('/') {
        // A relative path belongs to the branch: that it is missing is the branch's fault.
        if !word.starts_with('/') {
            return Found::Unclear;
        }
        return match identify(Path::new(&word)) {
            Some(program) => Found::Program(program),
            None => Found::Missing(word),
        };
    }
    let folders = path.map(std::env::split_paths).into_iter().flatten();
    folders
        .filter(|folder| folder.is_absolute())
        .find_map(|folder| identify(&folder.join(&word)))
        .map_or(Found::Missing(word), Found::Program)
}

fn identify(path: &Path) -> Option<Program> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return None;
    }
    let number = |value: u64| i64::from_ne_bytes(value.to_ne_bytes());
    Some(Program {
        path: path.to_owned(),
        identity: [
            number(metadata.dev()),
            number(metadata.ino()),
            number(metadata.size()),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ],
    })
}

/// Returns the first word of a command that names a program, where that is plain to see.
fn first_program(command: &str) -> Option<String> {
    for part in command.split("&&").flat_map(|part| part.split([';', '\n'])) {
        let words: Vec<&str> = part.split_whitespace().collect();
        let mut words = words.into_iter().peekable();
        while words.peek().is_some_and(|word| is_assignment(word)) {
            // A new PATH would be looked through by the shell, not here.
            if words
                .next()
                .is_some_and(|word| word.starts_with("PATH=") || word.contains(['"', '\'', '$', '`']))
            {
                return None;
            }
        }
        let Some(word) = words.next() else {
            continue;
        };
        if word == "exec" {
            return words.next().and_then(plain);
        }
        if matches!(word, "cd" | "set" | "umask" | "ulimit" | ":") {
            continue;
        }
        if SHELL_WORDS.contains(&word) || word.starts_with('#') {
            return None;
        }
        return plain(word);
    }
    None
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

fn plain(word: &str) -> Option<String> {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '/' | '@');
    (!word.is_empty() && word.chars().all(good)).then(|| word.to_owned())
}

/// The programs of a gate's steps as they were before the first of them ran.
#[derive(Debug, Default)]
pub(super) struct Programs {
    before: HashMap<String, Found>,
}

/// Why a step does not run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotRunnable {
    /// Its program is missing.
    Missing(String),
    /// Its program is another than before the first step.
    Changed(String),
}

impl Programs {
    /// Remembers the programs of `commands`, and the shell.
    pub(super) fn remember<'a>(commands: impl IntoIterator<Item = &'a str>, path: Option<&OsStr>) -> Self {
        let before = commands
            .into_iter()
            .chain(["sh"])
            .map(|command| (command.to_owned(), look_up(command, path)))
            .collect();
        Self { before }
    }

    /// Checks a command right before it runs; returns the shell to run it with.
    pub(super) fn check(&self, command: &str, path: Option<&OsStr>) -> Result<PathBuf, NotRunnable> {
        self.check_one(command, path)?;
        match self.check_one("sh", path)? {
            Found::Program(shell) => Ok(shell.path),
            _ => Err(NotRunnable::Missing("sh".to_owned())),
        }
    }

    fn check_one(&self, command: &str, path: Option<&OsStr>) -> Result<Found, NotRunnable> {
        let now = look_up(command, path);
        match (&now, self.before.get(command)) {
            (Found::Missing(name), _) => Err(NotRunnable::Missing(name.clone())),
            (Found::Program(now), Some(Found::Program(before))) if now != before => {
                Err(NotRunnable::Changed(now.path.display().to_string()))
            }
            _ => Ok(now),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_program_of_a_simple_command_is_its_first_word() {
        for (command, expected) in [
            ("cargo test", Some("cargo")),
            ("RUSTFLAGS=-Dwarnings cargo test", Some("cargo")),
            ("cd sub && npm test", Some("npm")),
            ("set -e; make check", Some("make")),
            ("exec pytest -q", Some("pytest")),
            ("./gradlew test", Some("./gradlew")),
            ("if true; then x; fi", None),
            ("\"$TOOL\" x", None),
            ("PATH=/x tool", None),
            ("echo hi", None),
            ("$(which cargo) test", None),
            ("# comment", None),
            ("test -z \"$(gofmt -l .)\"", None),
        ] {
            assert_eq!(first_program(command).as_deref(), expected, "{command}");
        }
    }

    #[test]
    fn missing_and_changed_programs_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let tool = folder.path().join("tool");
        let path = std::env::join_paths([folder.path(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
        let path = Some(path.as_os_str());
        std::fs::write(&tool, "#!/bin/sh\n").unwrap();
        assert!(matches!(look_up("tool x", path), Found::Missing(_)), "not executable");
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
        let programs = Programs::remember(["tool x", "/no/such/program", "later"], path);
        assert!(programs.check("tool x", path).is_ok());
        assert_eq!(
            programs.check("/no/such/program", path),
            Err(NotRunnable::Missing("/no/such/program".into()))
        );
        assert_eq!(programs.check("later", path), Err(NotRunnable::Missing("later".into())));
        std::fs::remove_file(&tool).unwrap();
        std::fs::write(&tool, "#!/bin/sh\nexit 0\n").unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(programs.check("tool x", path), Err(NotRunnable::Changed(_))));
        // What an earlier step installs may be used by a later one, but it may not shadow.
        std::fs::rename(&tool, folder.path().join("later")).unwrap();
        assert!(programs.check("later", path).is_ok());
        std::fs::copy(folder.path().join("later"), folder.path().join("sh")).unwrap();
        assert!(matches!(programs.check("later", path), Err(NotRunnable::Changed(_))));
    }
}
