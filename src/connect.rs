//! The one place that decides which API a command speaks to.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::cli::Global;
use crate::place::{Holder, Lock, Place};

/// A way to the API, and what must live as long as it is used.
pub struct Connection {
    /// Client.
    pub client: Client,
    /// Namespace that commands work in.
    pub namespace: String,
    /// Where the API is, for people.
    pub source: String,
    /// State folder of local mode.
    pub place: Option<Place>,
    plane: Option<(plane::Plane, Lock)>,
}

impl Connection {
    /// Says whether somebody works on what the API holds, as far as is known.
    pub fn is_served(&self) -> bool {
        self.plane.is_none()
    }

    /// Ends a plane that was started for this command.
    pub async fn close(self) {
        if let Some((plane, lock)) = self.plane {
            plane.shutdown().await;
            drop(lock);
        }
    }
}

/// Finds the root of the repository that a command works in, or the folder where there is none.
pub fn root(global: &Global) -> Result<std::path::PathBuf> {
    let folder = match &global.directory {
        Some(folder) => folder.clone(),
        None => std::env::current_dir().context("failed to read the current folder")?,
    };
    Ok(git::Local::discover(&folder)?.map_or(folder, |local| local.root))
}

/// Connects to the cluster that was named, to the server that runs here, or to a plane started for this command.
pub async fn connect(global: &Global) -> Result<Connection> {
    if global.kubeconfig.is_some() || global.context.is_some() {
        let options = KubeConfigOptions {
            context: global.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &global.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).with_context(|| format!("failed to read {}", path.display()))?;
                kube::Config::from_custom_kubeconfig(file, &options).await
            }
            None => kube::Config::from_kubeconfig(&options).await,
        }
        .context("failed to read the kubeconfig")?;
        let source = config.cluster_url.to_string();
        let client = Client::try_from(config).context("failed to set up the API client")?;
        return Ok(Connection {
            client,
            namespace: global.namespace.clone(),
            source,
            place: None,
            plane: None,
        });
    }
    let place = Place::new(&root(global)?, global.state.as_deref())?;
    match lock(&place).await? {
        Err((Holder { pid }, file)) => {
            let path = place.kubeconfig();
            let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("failed to read {}", path.display()))?;
            let client = Client::try_from(config).context("failed to set up the API client")?;
            let source = format!("served by process {pid}");
            Ok(Connection {
                client,
                namespace: global.namespace.clone(),
                source,
                place: Some(place),
                plane: None,
            })
        }
        Ok(lock) => {
            let plane = crate::local::open_plane(&place, None).await?;
            let client = plane.client();
            let source = format!("the state in {}; nothing serves it now", place.state.display());
            Ok(Connection {
                client,
                namespace: global.namespace.clone(),
                source,
                place: Some(place),
                plane: Some((plane, lock)),
            })
        }
    }
}

/// How long a command waits for a server that starts, or for another command that is about to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes the state folder, or finds the server that holds it.
///
/// Other short commands hold the folder without serving it, for their own duration.
pub async fn lock(place: &Place) -> Result<std::result::Result<Lock, (Holder, Kubeconfig)>> {
    let begun = Instant::now();
    loop {
        let holder = match place.lock()? {
            Ok(lock) => return Ok(Ok(lock)),
            Err(holder) => holder,
        };
        match Kubeconfig::read_from(place.kubeconfig()) {
            Ok(file) => return Ok(Err((holder, file))),
            Err(error) if begun.elapsed() > PATIENCE => {
                return Err(error).with_context(|| {
                    format!(
                        "process {} holds {} and serves no API; try again when it has ended",
                        holder.pid,
                        place.state.display()
                    )
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
