//! A push through a real sshd.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use git::{
    Credential, CredentialKind, Expected, FileEdit, HostKeys, Identity, Mirrors, PushOutcome, RemoteUrl, Remotes,
    Repository, Settings, Ssh,
};

use crate::foreman::LIMIT;

/// An sshd on a free loopback port that knows one key; ended when dropped.
struct Sshd {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; the tools tier needs it"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn keygen(path: &Path) {
    run(Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(path));
}

fn program() -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    // sshd insists on being started by its whole path, and lies where the PATH of ordinary users does not look.
    let found = std::env::split_paths(&folders)
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join("sshd"))
        .find(|path| path.exists());
    found.expect("sshd is needed: Debian's openssh-server has it, and .ci/run installs it")
}

impl Sshd {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        keygen(&root.join("host"));
        keygen(&root.join("client"));
        keygen(&root.join("stranger"));
        std::fs::copy(root.join("client.pub"), root.join("authorized")).unwrap();
        if run(Command::new("id").arg("-u")) == "0" {
            // As root it drops privileges in a folder that its service would make.
            std::fs::create_dir_all("/run/sshd").unwrap();
            std::fs::set_permissions("/run/sshd", std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n",
            root.display()
        );
        std::fs::write(root.join("config"), config).unwrap();
        let log = std::fs::File::create(root.join("log")).unwrap();
        let child = Command::new(program())
            .args(["-D", "-e", "-f"])
            .arg(root.join("config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let public = std::fs::read_to_string(root.join("host.pub")).unwrap();
        std::fs::write(root.join("known_hosts"), format!("[127.0.0.1]:{port} {public}")).unwrap();
        let mut sshd = Self { child, port, folder };
        sshd.wait();
        sshd
    }

    /// Waits until the server greets, or panics with its log once it ended.
    fn wait(&mut self) {
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "sshd ended: {}", self.log());
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                let mut greeting = [0; 4];
                if stream.read_exact(&mut greeting).is_ok() && &greeting == b"SSH-" {
                    return;
                }
            }
            std::thread::yield_now();
        }
        panic!("sshd does not greet: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Makes access with one of the keys.
    fn remotes(&self, key: &str, known_hosts: &Path) -> Remotes {
        let user = run(Command::new("id").arg("-un"));
        let prefix = format!("ssh://{user}@127.0.0.1:{}", self.port);
        let credential = Credential::new(
            &prefix,
            CredentialKind::SshKey {
                path: self.folder.path().join(key),
            },
        )
        .unwrap();
        let ssh = Ssh {
            program: "ssh".into(),
            host_keys: HostKeys::Known,
            known_hosts: Some(known_hosts.to_owned()),
        };
        Remotes::new(Settings {
            credentials: vec![credential],
            ssh,
            ..Settings::default()
        })
    }

    fn known_hosts(&self) -> PathBuf {
        self.folder.path().join("known_hosts")
    }

    fn url(&self, path: &Path) -> RemoteUrl {
        let user = run(Command::new("id").arg("-un"));
        RemoteUrl::parse(&format!("ssh://{user}@127.0.0.1:{}{}", self.port, path.display())).unwrap()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn who() -> Identity {
    Identity::new("Tester", "tester@localhost", 1_700_000_000)
}

#[test]
#[ignore = "needs sshd"]
fn a_push_through_sshd_wins_loses_or_is_refused() {
    let sshd = Sshd::start();
    let path = sshd.folder.path().join("bare.git");
    let bare = Repository::init_bare(&path, "main").unwrap();
    let head = bare
        .commit_files(None, &[FileEdit::write("README.md", "A sample.\n")], "begin", &who())
        .unwrap();
    bare.set_ref("refs/heads/main", Some(head)).unwrap();
    let (remotes, url) = (sshd.remotes("client", &sshd.known_hosts()), sshd.url(&path));

    let refs = remotes
        .list_refs(&url, &["refs/heads/"])
        .unwrap_or_else(|error| panic!("{error}; sshd says {}", sshd.log()));
    assert_eq!(
        refs.iter()
            .map(|found| (found.name.as_str(), found.commit()))
            .collect::<Vec<_>>(),
        [("refs/heads/main", head)]
    );
    let mirrors = tempfile::tempdir().unwrap();
    let mirror = Mirrors::new(mirrors.path(), remotes.clone()).mirror(&url).unwrap();
    assert_eq!(mirror.fetch_branch("main", false).unwrap(), head);
    let local = mirror.repository();
    let commit = |text: &str| {
        local
            .commit_files(Some(head), &[FileEdit::write("new", text)], text, &who())
            .unwrap()
    };
    let (one, two) = (commit("one"), commit("two"));
    let push = |expected, new| remotes.push(&local, &url, "refs/heads/work", expected, new).unwrap();
    assert_eq!(push(Expected::Absent, one), PushOutcome::Won);
    assert_eq!(bare.resolve("refs/heads/work").unwrap(), Some(one));
    assert_eq!(push(Expected::At(head), two), PushOutcome::Lost { found: Some(one) });
    let hook = path.join("hooks/update");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\necho no entry >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = push(Expected::At(one), two);
    assert!(
        matches!(&refused, PushOutcome::Refused(message) if message.contains("no entry")),
        "{refused:?}"
    );
    assert_eq!(bare.resolve("refs/heads/work").unwrap(), Some(one));
    run(Command::new("git").arg("-C").arg(&path).args(["fsck", "--strict"]));
}

#[test]
#[ignore = "needs sshd"]
fn a_stranger_s_key_and_a_server_that_is_not_known_are_turned_away() {
    let sshd = Sshd::start();
    let path = sshd.folder.path().join("bare.git");
    Repository::init_bare(&path, "main").unwrap();
    let url = sshd.url(&path);
    let stranger = sshd
        .remotes("stranger", &sshd.known_hosts())
        .list_refs(&url, &[])
        .unwrap_err();
    assert_eq!(stranger.category(), git::Category::Auth, "{stranger}");
    let nobody = sshd.folder.path().join("nobody");
    std::fs::write(&nobody, "").unwrap();
    let unknown = sshd.remotes("client", &nobody).list_refs(&url, &[]).unwrap_err();
    assert!(unknown.to_string().to_lowercase().contains("host key"), "{unknown}");
    sshd.remotes("client", &sshd.known_hosts())
        .list_refs(&url, &[])
        .unwrap();
}
