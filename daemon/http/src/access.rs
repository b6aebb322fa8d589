//! Who is served, and how: what the web configuration comes to.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use hyper::header::{HeaderName, HeaderValue};
use tokio_rustls::rustls;

use super::{
    tls,
    web_config::{WebConfigError, headers, parse},
};

/// See the module.
#[derive(Default)]
pub struct Access {
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// bcrypt hashes by user; empty: everybody.
    pub users: BTreeMap<String, String>,
    /// Added to every answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Access {
    /// Reads the file; without one everybody is served over plain HTTP.
    ///
    /// # Errors
    /// What is wrong with it, or with a certificate that it names.
    pub fn read(file: Option<&Path>) -> Result<Self, WebConfigError> {
        let Some(path) = file else {
            return Ok(Self::default());
        };
        let text = fs::read_to_string(path).map_err(|err| WebConfigError::Io(path.to_owned(), err))?;
        let file = parse(path, &text)?;
        let tls = file
            .tls_server_config
            .map(|tls| tls::server(&tls, path.parent().unwrap_or(Path::new("."))))
            .transpose()?;
        Ok(Self {
            tls: tls.map(Arc::new),
            users: file.basic_auth_users,
            headers: headers(file.http_server_config.headers)
                .map_err(|problem| WebConfigError::Form(path.to_owned(), problem))?,
        })
    }
}
