//! What a person types at kubectl, on kube-apiserver and on a plane: both print the same.

use crate::kubectl::{Kubectl, Printed, Server, play};
use crate::served::{self, Served};

fn told(side: &str, printed: &Printed) -> Option<String> {
    let Printed { typed, code, text, .. } = printed;
    (!printed.missing.is_empty()).then(|| {
        format!(
            "kubectl {typed}\n  {side} ended with {code:?} and lacks {:?}:\n{text}",
            printed.missing
        )
    })
}

/// Returns the lines that only one of two texts has, or both where the lines are the same in another order.
fn difference(real: &str, own: &str) -> String {
    let mut out = String::new();
    for (sign, text, other) in [('-', real, own), ('+', own, real)] {
        let mut left: Vec<&str> = other.lines().collect();
        for line in text.lines() {
            match left.iter().position(|found| *found == line) {
                Some(place) => drop(left.remove(place)),
                None => out.push_str(&format!("    {sign} {line}\n")),
            }
        }
    }
    if out.is_empty() {
        out = format!("    the same lines in another order:\n{real}\n{own}");
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn kubectl_prints_on_a_plane_what_it_prints_on_kube_apiserver() {
    let client = super::client().await;
    for crd in schemas::crds::all() {
        served::define(&client, &crd).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let plane = Served::on_plane(folder.path()).await;
    let namespace = format!("test-{:06x}", rand::random::<u32>() & 0xff_ffff);
    let playing = |server: Server, kubeconfig| {
        let namespace = namespace.clone();
        tokio::task::spawn_blocking(move || play(&Kubectl::new(kubeconfig), server, &namespace))
    };
    let real = playing(Server::KubeApiserver, served::real_kubeconfig().unwrap());
    let own = playing(Server::Plane, plane.kubeconfig().await);
    let (real, own) = (real.await.unwrap(), own.await.unwrap());
    let mut wrong = Vec::new();
    for (real, own) in real.iter().zip(&own) {
        wrong.extend(told("kube-apiserver", real));
        wrong.extend(told("the plane", own));
        if real.same && (real.code, &real.text) != (own.code, &own.text) {
            wrong.push(format!(
                "kubectl {}\n  ends with {:?} on kube-apiserver and {:?} on the plane\n{}",
                real.typed,
                real.code,
                own.code,
                difference(&real.text, &own.text)
            ));
        }
    }
    plane.close().await;
    let compared = real.iter().filter(|printed| printed.same).count();
    println!("{} calls of kubectl, {compared} compared", real.len());
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
