//! The bucket and the key that a URL names.

use std::{
    path::{MAIN_SEPARATOR_STR, Path},
    sync::Arc,
};

use icd::{Error, Result};
use object_store::{
    ObjectStore, RetryConfig, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder, path::Path as Key,
};

use super::connector::Connector;

/// What a key cannot have.
const NO_KEY: &str = "it has an empty part, . or .., or a control character";

/// An object, or the folder of several.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    scheme: Scheme,
    bucket: String,
    /// As it stands in the URL: `%20` are three characters.
    pub(super) key: Key,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    S3,
    Gs,
    Az,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }
}

impl Place {
    /// Reads a URL, which may have been joined as a path.
    pub(super) fn of(url: &Path) -> Result<Self> {
        let fault = |reason: String| {
            let url = url.display();
            Error::setting(format!("{url}: {reason}: write s3://bucket/name"))
        };
        let text = url
            .to_str()
            .ok_or_else(|| fault("it is not UTF-8".into()))?;
        let text = text.replace(MAIN_SEPARATOR_STR, "/");
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let known = [Scheme::S3, Scheme::Gs, Scheme::Az];
        let scheme = known.into_iter().find(|known| known.name() == scheme);
        let scheme = scheme.ok_or_else(|| fault("its scheme is not known".into()))?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let is_name = |c: char| c.is_ascii_alphanumeric() || ".-_$".contains(c);
        if bucket.is_empty() || !bucket.chars().all(is_name) {
            return Err(fault("it names no bucket".into()));
        }
        // It would be left out.
        if key.starts_with('/') {
            return Err(fault(NO_KEY.into()));
        }
        Ok(Self {
            scheme,
            bucket: bucket.into(),
            key: Key::parse(key).map_err(|_| fault(NO_KEY.into()))?,
        })
    }

    /// The URL of the bucket, without a slash at its end.
    pub(super) fn bucket_url(&self) -> String {
        format!("{}://{}", self.scheme.name(), self.bucket)
    }

    /// A client of the bucket, as the environment says.
    pub(super) fn open(&self, connector: Connector) -> object_store::Result<Arc<dyn ObjectStore>> {
        let (bucket, once) = (&self.bucket, once());
        Ok(match self.scheme {
            Scheme::S3 => Arc::new(
                AmazonS3Builder::from_env()
                    .with_bucket_name(bucket)
                    .with_retry(once)
                    .with_http_connector(connector)
                    .build()?,
            ),
            Scheme::Gs => Arc::new(
                GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(bucket)
                    .with_retry(once)
                    .with_http_connector(connector)
                    .build()?,
            ),
            Scheme::Az => Arc::new(
                MicrosoftAzureBuilder::from_env()
                    .with_container_name(bucket)
                    .with_retry(once)
                    .with_http_connector(connector)
                    .build()?,
            ),
        })
    }
}

/// Requests are repeated by [`Cloud`](super::Cloud), which tells of it.
fn once() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_bucket_and_a_key_as_they_stand() {
        let of = |url: &str| Place::of(Path::new(url)).unwrap();
        let place = of("s3://bucket/a b/%20é.png");
        assert_eq!(place.bucket_url(), "s3://bucket");
        assert_eq!(place.key.as_ref(), "a b/%20é.png");
        for root in ["gs://bucket", "gs://bucket/"] {
            assert_eq!(of(root).key.as_ref(), "");
        }
        assert_eq!(of("az://box/out/").key, of("az://box/out").key);
        let joined = Path::new("s3://bucket/out/").join("a.png");
        assert_eq!(Place::of(&joined).unwrap(), of("s3://bucket/out/a.png"));
    }

    #[test]
    fn what_names_no_object_is_refused() {
        let urls = [
            "s3://",
            "s3:///a",
            "s3://b c/a",
            "s3://b//a",
            "s3://b/../a",
            "ftp://b/a",
            "b/a",
        ];
        for url in urls {
            let error = Place::of(Path::new(url)).unwrap_err().to_string();
            assert!(error.contains("s3://bucket/name"), "{error}");
        }
    }
}
