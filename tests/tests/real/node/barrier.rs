//! Gates that go on when a test says so.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What gates wait at, until it is opened.
pub struct Barrier {
    command: String,
    open: watch::Sender<bool>,
}

impl Barrier {
    /// Builds one at an address of this machine that pods reach.
    pub async fn at(address: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = watch::Sender::new(false);
        let opened = open.subscribe();
        tokio::spawn(async move {
            loop {
                let (mut waits, _) = listener.accept().await.unwrap();
                let mut opened = opened.clone();
                tokio::spawn(async move {
                    if opened.wait_for(|open| *open).await.is_ok() {
                        // Whoever was ended meanwhile waits no more.
                        let _ = waits.write_all(b"go\n").await;
                    }
                });
            }
        });
        let command = format!("bash -c 'read -r go < /dev/tcp/{address}/{port} && test \"$go\" = go'");
        Self { command, open }
    }

    /// Returns the command of a gate's step that waits here, and then succeeds.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Lets all go on that wait, and all that come.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}
