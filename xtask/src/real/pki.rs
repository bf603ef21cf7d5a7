//! Who the servers and their users are: certificates, keys, tokens and kubeconfigs, new for each start.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::state::State;

/// The first address of the service network, which is the API's own.
pub const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Somebody who speaks to the API by a token.
pub struct User {
    /// The name of the kubeconfig.
    pub file: &'static str,
    /// The name that the API knows.
    pub name: &'static str,
    /// The groups, with commas.
    pub groups: &'static str,
}

/// Everybody who speaks to the API. Tests need no other administrator; each component has the role that Kubernetes
/// gives it, so that what works here works where roles are enforced.
pub const USERS: [User; 6] = [
    User {
        file: "admin",
        name: "admin",
        groups: "system:masters",
    },
    User {
        file: "kube-controller-manager",
        name: "system:kube-controller-manager",
        groups: "",
    },
    User {
        file: "kube-scheduler",
        name: "system:kube-scheduler",
        groups: "",
    },
    User {
        file: "kubelet",
        name: "system:node:foreman-node",
        groups: "system:nodes",
    },
    User {
        file: "kube-proxy",
        name: "system:kube-proxy",
        groups: "",
    },
    User {
        file: "names",
        name: "system:serviceaccount:kube-system:kube-dns",
        groups: "",
    },
];

/// What a client needs to speak to the API as the administrator.
pub struct Admin {
    pub ca: String,
    pub token: String,
}

/// Writes all of it, for an API that is reached at `listen` and tells others to use `address`.
pub fn write(state: &State, listen: Ipv4Addr, address: Ipv4Addr, port: u16) -> Result<Admin> {
    let made = "failed to make certificates";
    let ca_key = KeyPair::generate().context(made)?;
    let ca = authority().and_then(|ca| ca.self_signed(&ca_key)).context(made)?.pem();
    let issuer = Issuer::new(authority().context(made)?, &ca_key);
    let key = KeyPair::generate().context(made)?;
    let certificate = server(address)
        .and_then(|params| params.signed_by(&key, &issuer))
        .context(made)?;
    state.write("pki/ca.crt", ca.as_bytes())?;
    state.write("pki/apiserver.crt", certificate.pem().as_bytes())?;
    state.write("pki/apiserver.key", key.serialize_pem().as_bytes())?;
    let key = KeyPair::generate().context(made)?;
    let certificate = kubelet_client()
        .and_then(|params| params.signed_by(&key, &issuer))
        .context(made)?;
    state.write("pki/kubelet-client.crt", certificate.pem().as_bytes())?;
    state.write("pki/kubelet-client.key", key.serialize_pem().as_bytes())?;
    let accounts = KeyPair::generate().context(made)?;
    state.write("pki/accounts.key", accounts.serialize_pem().as_bytes())?;
    state.write("pki/accounts.pub", accounts.public_key_pem().as_bytes())?;

    let mut table = String::new();
    let mut admin = String::new();
    for user in USERS {
        let token = hex::encode(rand::rng().random::<[u8; 16]>());
        table.push_str(&line(&user, &token));
        let config = kubeconfig(&ca, listen, port, &token)?;
        state.write(&format!("{}.kubeconfig", user.file), config.as_bytes())?;
        if user.file == "admin" {
            admin = token;
        }
    }
    state.write("pki/tokens.csv", table.as_bytes())?;
    Ok(Admin { ca, token: admin })
}

/// Returns a line of kube-apiserver's table of tokens.
fn line(user: &User, token: &str) -> String {
    if user.groups.is_empty() {
        format!("{token},{0},{0}\n", user.name)
    } else {
        format!("{token},{0},{0},\"{1}\"\n", user.name, user.groups)
    }
}

fn authority() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "foreman test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn server(address: Ipv4Addr) -> Result<CertificateParams, rcgen::Error> {
    let names = [
        "127.0.0.1",
        "localhost",
        &address.to_string(),
        &SERVICE_ADDRESS.to_string(),
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let mut params = CertificateParams::new(names.map(str::to_owned))?;
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The API as it speaks to kubelets, for logs and commands.
fn kubelet_client() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver-kubelet-client");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn kubeconfig(ca: &str, listen: Ipv4Addr, port: u16, token: &str) -> Result<String> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "real", "cluster": {
            "server": format!("https://{listen}:{port}"),
            "certificate-authority-data": STANDARD.encode(ca),
        }}],
        "users": [{"name": "real", "user": {"token": token}}],
        "contexts": [{"name": "real", "context": {"cluster": "real", "user": "real", "namespace": "default"}}],
        "current-context": "real",
    });
    schemas::yaml::to_string(&config).context("failed to write a kubeconfig")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn every_user_has_a_token_of_its_own_and_a_kubeconfig_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(Path::new("/"), Some(folder.path())).unwrap();
        let admin = write(&state, Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 0, 2, 1), 6443).unwrap();
        let table = std::fs::read_to_string(state.file("pki/tokens.csv")).unwrap();
        let mut tokens: Vec<&str> = table.lines().map(|line| line.split(',').next().unwrap()).collect();
        assert_eq!(tokens[0], admin.token);
        for (user, token) in USERS.iter().zip(&tokens) {
            let config = std::fs::read_to_string(state.file(&format!("{}.kubeconfig", user.file))).unwrap();
            assert!(
                config.contains(token) && config.contains("https://127.0.0.1:6443"),
                "{config}"
            );
        }
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), USERS.len());
    }

    #[test]
    fn groups_stand_in_quotes_since_they_may_hold_commas() {
        assert_eq!(line(&USERS[0], "t"), "t,admin,admin,\"system:masters\"\n");
        assert!(line(&USERS[1], "t").ends_with("system:kube-controller-manager\n"));
    }
}
