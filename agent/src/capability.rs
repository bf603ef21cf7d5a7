//! What this machine offers: memory, accelerator, models.

use schemas::fleet_node::{Accelerator, Capability, Gpu};

use crate::config::CapabilityOverrides;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// What a probe of the machine found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// RAM in bytes.
    pub total_ram: u64,
    /// Available RAM in bytes.
    pub available_ram: u64,
    /// NVIDIA GPUs.
    pub gpus: Vec<Gpu>,
}

/// Looks at a machine; keeps what is dear to open.
pub struct Probe {
    system: Option<sysinfo::System>,
    nvml: Option<nvml_wrapper::Nvml>,
}

impl Default for Probe {
    fn default() -> Self {
        Self::new()
    }
}

impl Probe {
    /// Opens the sources; a machine without NVIDIA's library has no NVIDIA GPU.
    pub fn new() -> Self {
        let nvml = nvml_wrapper::Nvml::init()
            .inspect_err(|error| tracing::debug!(%error, "no NVIDIA management library"))
            .ok();
        let system = sysinfo::System::new()
            .inspect_err(|error| tracing::warn!(%error, "failed to look at this machine's memory"))
            .ok();
        Self { system, nvml }
    }

    /// Looks now.
    pub fn look(&mut self) -> Machine {
        if let Some(system) = &mut self.system {
            system.refresh_memory();
        }
        Machine {
            total_ram: self.system.as_ref().map_or(0, sysinfo::System::total_memory),
            available_ram: self.system.as_ref().map_or(0, sysinfo::System::available_memory),
            gpus: self.nvml.as_ref().map(gpus).unwrap_or_default(),
        }
    }
}

fn gpus(nvml: &nvml_wrapper::Nvml) -> Vec<Gpu> {
    (0..nvml.device_count().unwrap_or(0))
        .filter_map(|index| {
            let device = nvml.device_by_index(index).ok()?;
            let memory = device.memory_info().ok()?;
            Some(Gpu {
                name: device.name().ok()?,
                memory_mib: (memory.total / MIB) as i64,
                free_memory_mib: Some((memory.free / MIB) as i64),
            })
        })
        .collect()
}

/// What the model endpoints of this node's Agents serve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Served {
    /// Models.
    pub models: Vec<String>,
    /// Largest context window in tokens.
    pub max_context_tokens: Option<i64>,
}

/// Puts together what the machine, its endpoints and its flags say; flags win, absence stays absence.
pub fn capability(machine: &Machine, served: &Served, flags: &CapabilityOverrides, slots: usize) -> Capability {
    let found = if !machine.gpus.is_empty() {
        Some(Accelerator::Cuda)
    } else if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        Some(Accelerator::Metal)
    } else {
        None
    };
    Capability {
        accelerator: flags.accelerator.or(found),
        available_ram_gb: Some((machine.available_ram / GIB) as i64),
        installed_models: flags
            .installed_models
            .clone()
            .or_else(|| Some(served.models.clone()).filter(|models| !models.is_empty())),
        max_context_tokens: flags.max_context_tokens.or(served.max_context_tokens),
        tokens_per_second: flags.tokens_per_second,
        total_ram_gb: Some(flags.total_ram_gb.unwrap_or((machine.total_ram / GIB) as i64)),
        slots: Some(slots as i64),
        gpus: Some(machine.gpus.clone()).filter(|gpus| !gpus.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn machine(gpus: usize) -> Machine {
        Machine {
            total_ram: 64 * GIB,
            available_ram: 40 * GIB + 5,
            gpus: (0..gpus)
                .map(|_| Gpu {
                    name: "GPU".into(),
                    memory_mib: 81_920,
                    free_memory_mib: Some(80_000),
                })
                .collect(),
        }
    }

    #[test]
    fn a_machine_without_gpu_reports_no_accelerator() {
        let found = capability(&machine(0), &Served::default(), &CapabilityOverrides::default(), 2);
        assert_eq!((found.accelerator, found.gpus), (None, None));
        assert_eq!((found.total_ram_gb, found.available_ram_gb), (Some(64), Some(40)));
        assert_eq!((found.installed_models, found.max_context_tokens), (None, None));
    }

    #[test]
    fn an_nvidia_gpu_makes_it_cuda_and_a_flag_wins() {
        let served = Served {
            models: vec!["m".into()],
            max_context_tokens: Some(8192),
        };
        let none = CapabilityOverrides::default();
        assert_eq!(
            capability(&machine(1), &served, &none, 1).accelerator,
            Some(Accelerator::Cuda)
        );
        let flags = CapabilityOverrides {
            accelerator: Some(Accelerator::None),
            installed_models: Some(vec!["x".into()]),
            total_ram_gb: Some(7),
            max_context_tokens: Some(100),
            tokens_per_second: Some(9),
        };
        let told = capability(&machine(1), &served, &flags, 1);
        assert_eq!(told.accelerator, Some(Accelerator::None));
        assert_eq!(told.installed_models, Some(vec!["x".to_owned()]));
        assert_eq!(
            (told.total_ram_gb, told.max_context_tokens, told.tokens_per_second),
            (Some(7), Some(100), Some(9))
        );
    }

    #[test]
    fn the_probe_sees_memory() {
        let seen = Probe::new().look();
        assert!(seen.total_ram > 0 && seen.available_ram <= seen.total_ram);
    }
}
