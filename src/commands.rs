//! The commands, one file each.

pub mod ask;
pub mod demo;
pub mod doctor;
pub mod dry_run;
pub mod get;
pub mod init;
pub mod logs;
pub mod run;
pub mod show;
pub mod up;
pub mod validate;
