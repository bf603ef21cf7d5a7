//! A disk that is full: clear errors, nothing lost, and work that goes on when there is room again.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use schemas::workload::WorkloadPhase;

use crate::stage::{self, Setup, Stage};

/// A small tmpfs of its own, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mebibytes}m,mode=700"),
                "foreman-test",
            ])
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "this test mounts a tmpfs, which needs root: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Self(folder)
    }

    /// Writes until nothing more fits, and returns the free bytes that are left.
    fn fill(&self) -> u64 {
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=4096", "status=none"])
            .arg(format!("of={}", self.ballast().display()))
            .output()
            .unwrap();
        self.free()
    }

    fn empty(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.0.path().join("ballast")
    }

    fn free(&self) -> u64 {
        free(self.0.path())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn free(folder: &Path) -> u64 {
    let out = Command::new("stat")
        .args(["-f", "-c", "%a %S"])
        .arg(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (blocks, size) = text.trim().split_once(' ').unwrap();
    blocks.parse::<u64>().unwrap() * size.parse::<u64>().unwrap()
}

/// The part of the state that lies on the small disk.
async fn a_full_disk_is_said_and_got_over(part: &str, mebibytes: u32) {
    let disk = SmallDisk::mount(mebibytes);
    let stage = Stage::build(&Setup {
        interval: "200ms",
        ..Setup::default()
    });
    let place = if part.is_empty() {
        stage.state.clone()
    } else {
        stage.state.join(part)
    };
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(disk.0.path(), &place).unwrap();
    stage.ask(&["before".into()]);
    let up = stage.up(&[]);
    let client = up.client().await;
    let before = stage::ended(&client, 1, Duration::from_secs(60)).await.remove(0);
    assert_eq!(before.status.clone().unwrap().phase, Some(WorkloadPhase::Completed));
    assert_eq!(disk.fill(), 0, "the disk is full");
    stage.ask(&["during".into()]);
    let begun = Instant::now();
    while !up.said().contains("space") && !up.said().contains("full") {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "nobody says that the disk is full:\n{}",
            up.said()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(disk.free(), 0, "still full when it is said");
    disk.empty();
    let begun = Instant::now();
    loop {
        if let Ok(all) = stage::workloads(&client).await {
            let kept = all
                .iter()
                .find(|workload| workload.metadata.uid == before.metadata.uid)
                .expect("what was done is kept");
            assert_eq!(
                kept.status.as_ref().unwrap().verdict,
                before.status.as_ref().unwrap().verdict
            );
            if all.len() == 2 && all.iter().all(stage::is_over) {
                for workload in &all {
                    println!(
                        "{part}: {:?} {:?}",
                        workload.metadata.name,
                        workload.status.as_ref().unwrap().message
                    );
                }
                break;
            }
        }
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "work does not go on when there is room again:\n{}",
            up.said()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage::git(&stage.sample, &["fsck", "--full"]);
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root for a tmpfs"]
async fn the_planes_disk_is_full() {
    // Room for the program, which a Pod's volume holds a copy of: built for debugging it is large.
    a_full_disk_is_said_and_got_over("", 640).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root for a tmpfs"]
async fn the_mirrors_disk_is_full() {
    a_full_disk_is_said_and_got_over("operator/mirrors", 48).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root for a tmpfs"]
async fn the_work_trees_disk_is_full() {
    a_full_disk_is_said_and_got_over("agent", 48).await;
}
