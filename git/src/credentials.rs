//! The credentials file: one line per address, as `git credential-store` writes them.

use std::path::Path;

use crate::error::{Error, Result};
use crate::settings::{Credential, CredentialKind, Secret};

/// Reads a credentials file.
///
/// Each line is `https://user:password@host/path`, `https://token@host/path`, or
/// `ssh://git@host/path key=/path/to/key`. Empty lines and lines that begin with `#` are left out. An error names
/// the line and never shows what it holds.
pub fn read_credentials(path: &Path) -> Result<Vec<Credential>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<Vec<Credential>> {
    let mut all = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        all.push(one(line).ok_or_else(|| Error::Credentials {
            path: path.to_owned(),
            line: index + 1,
        })?);
    }
    Ok(all)
}

fn one(line: &str) -> Option<Credential> {
    let (address, key) = match line.split_once(char::is_whitespace) {
        Some((address, rest)) => (address, Some(rest.trim().strip_prefix("key=")?)),
        None => (line, None),
    };
    if let Some(key) = key {
        return Credential::new(address, CredentialKind::SshKey { path: key.into() }).ok();
    }
    let mut url = url::Url::parse(address).ok()?;
    let decode = |text: &str| percent(text);
    let user = decode(url.username())?;
    let password = url.password().map(percent);
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    let kind = match password {
        Some(password) => CredentialKind::Basic {
            username: user,
            password: Secret::new(password?),
        },
        None if !user.is_empty() => CredentialKind::Token(Secret::new(user)),
        None => return None,
    };
    Credential::new(url.as_str(), kind).ok()
}

fn percent(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn each_form_of_line_is_read() {
        let text =
            "# mine\n\nhttps://me:p%40ss@git.example/team\nhttps://tok@git.example\nssh://git@git.example/x key=/k\n";
        let all = parse(text, Path::new("creds")).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(
            *all[0].kind(),
            CredentialKind::Basic {
                username: "me".into(),
                password: Secret::new("p@ss")
            }
        );
        assert_eq!(*all[1].kind(), CredentialKind::Token(Secret::new("tok")));
        assert_eq!(*all[2].kind(), CredentialKind::SshKey { path: "/k".into() });
    }

    #[test]
    fn a_broken_line_is_named_and_its_secret_is_not_shown() {
        let error = parse("\nftp://a:hunter2@x\n", Path::new("creds"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("creds, line 2") && !error.contains("hunter2"), "{error}");
        assert_eq!(error.matches("expected").count(), 1, "{error}");
    }
}
