//! Whether a model server answers, for whoever wants to tell somebody.

use std::time::Duration;

use tokio::sync::watch;

/// Tells what was last found: why the server does not answer; an empty text where it does; nothing before it was asked.
#[derive(Clone, Debug)]
pub struct News(watch::Sender<Option<String>>);

impl News {
    /// Begins to tell; who does not want to know drops the other end.
    pub fn new() -> (Self, watch::Receiver<Option<String>>) {
        let (sender, receiver) = watch::channel(None);
        (Self(sender), receiver)
    }

    /// The server answered.
    pub fn answers(&self) {
        self.say("");
    }

    /// The server did not answer, and is asked again for so long at most.
    pub fn is_away(&self, why: &str, patience: Duration) {
        self.say(&format!(
            "{why} (it is asked again for up to {} minutes)",
            patience.as_secs() / 60
        ));
    }

    fn say(&self, why: &str) {
        self.0.send_if_modified(|known| {
            let is_new = known.as_deref() != Some(why);
            if is_new {
                *known = Some(why.to_owned());
            }
            is_new
        });
    }
}
