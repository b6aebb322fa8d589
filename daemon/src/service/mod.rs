//! The daemon as a service: the service manager's notifications, privileges, the log.

pub mod logging;
pub mod notify;
pub mod privileges;
