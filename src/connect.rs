//! The one place that decides which API a command speaks to.

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
        let options = KubeConfigOptions { context: global.context.clone(), ..KubeConfigOptions::default() };
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
        return Ok(Connection { client, namespace: global.namespace.clone(), source, place: None, plane: None });
    }
    let place = Place::new(&root(global)?, global.state.as_deref())?;
    match place.lock()? {
        Err(Holder { pid }) => {
            let path = place.kubeconfig();
            let file = Kubeconfig::read_from(&path).with_context(|| {
                format!("process {pid} holds {} and has not written {} yet; try again in a moment", place.state.display(), path.display())
            })?;
            let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("failed to read {}", path.display()))?;
            let client = Client::try_from(config).context("failed to set up the API client")?;
            let source = format!("foreman up, process {pid}");
            Ok(Connection { client, namespace: global.namespace.clone(), source, place: Some(place), plane: None })
        }
        Ok(lock) => {
            let plane = crate::local::open_plane(&place, None).await?;
            let client = plane.client();
            let source = format!("the state in {}; nothing serves it now", place.state.display());
            Ok(Connection { client, namespace: global.namespace.clone(), source, place: Some(place), plane: Some((plane, lock)) })
        }
    }
}
