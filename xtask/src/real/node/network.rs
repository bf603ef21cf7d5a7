//! The network of the node: a namespace, joined to the machine by a pair of interfaces.
//!
//! The API listens on the machine's end. Bridges, rules and the pods' addresses lie in the namespace and go with it; the
//! machine forwards nothing, so pods reach the machine and no further.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::process;

/// The network that joins the node to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The namespace, and the stem of the names of whatever else is the machine's.
    pub name: String,
    /// The machine's end.
    pub host: Ipv4Addr,
    /// The node's end.
    pub node: Ipv4Addr,
}

impl Network {
    /// Names the network of a state folder; two folders have two networks.
    pub fn of(folder: &Path) -> Network {
        let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let [a, b] = [digest[0], digest[1] & 0xfc];
        Network {
            name: format!("fm{}", hex::encode(&digest[..4])),
            host: Ipv4Addr::new(10, 89, a, b | 1),
            node: Ipv4Addr::new(10, 89, a, b | 2),
        }
    }

    /// Returns the file of the namespace.
    pub fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn commands(&self) -> Vec<String> {
        let Network { name, host, node } = self;
        vec![
            format!("netns add {name}"),
            format!("link add {name}h type veth peer name {name}n"),
            format!("link set {name}n netns {name}"),
            format!("addr add {host}/30 dev {name}h"),
            format!("link set {name}h up"),
            format!("-n {name} addr add {node}/30 dev {name}n"),
            format!("-n {name} link set lo up"),
            format!("-n {name} link set {name}n up"),
            format!("-n {name} route add default via {host}"),
        ]
    }

    /// Makes the network.
    pub fn make(&self) -> Result<()> {
        for command in self.commands() {
            ip(&command).context("failed to make the node's network")?;
        }
        // Pods reach each other and the API by way of the node.
        let mut sysctl = Command::new("nsenter");
        sysctl.arg(format!("--net={}", self.namespace().display())).args([
            "sh",
            "-c",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
        ]);
        process::run(sysctl).context("failed to make the node's network")
    }

    /// Removes what is there of the network; the namespace takes its end of the pair with it, and so the other.
    pub fn remove(&self) -> Result<()> {
        let interface = Path::new("/sys/class/net").join(format!("{}h", self.name));
        if interface.exists() {
            ip(&format!("link delete {}h", self.name)).context("failed to remove the node's network")?;
        }
        if self.namespace().exists() {
            ip(&format!("netns delete {}", self.name)).context("failed to remove the node's network")?;
        }
        Ok(())
    }
}

fn ip(words: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(words.split(' '));
    process::run(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_folders_have_two_networks_and_names_fit_the_kernel() {
        let (one, two) = (Network::of(Path::new("/a")), Network::of(Path::new("/b")));
        assert_ne!(one, two);
        assert!(one.name.len() + 1 < 16, "{}", one.name);
        assert_eq!(u32::from(one.host) + 1, u32::from(one.node));
    }

    #[test]
    fn every_command_names_this_network_alone() {
        let network = Network::of(Path::new("/a"));
        for command in network.commands() {
            assert!(command.contains(&network.name), "{command}");
        }
    }
}
