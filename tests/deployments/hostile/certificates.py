"""Certificates that prove the wrong thing: of an unknown issuer, expired, of another host."""

import shutil
import ssl
import subprocess
from pathlib import Path

_AUTHORITY = """
[ca]
default_ca = one
[one]
database = {folder}/{kind}.index
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = DNS:{host}
[req]
distinguished_name = any
"""


class Certificates:
    """Each vouches for itself, so that only its own fault stands against it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._make("unknown", "localhost", "20200101000000Z", "20991231000000Z")
        self._make("expired", "localhost", "20200101000000Z", "20200102000000Z")
        self._make("of-another", "elsewhere.invalid", "20200101000000Z", "20991231000000Z")

    def path(self, kind: str) -> Path:
        """The certificate, for whoever is to trust it."""
        return self._folder / f"{kind}.pem"

    def context(self, kind: str) -> ssl.SSLContext:
        """For a server that shows it."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.path(kind), self._folder / f"{kind}.key")
        return context

    def _make(self, kind: str, host: str, begin: str, end: str) -> None:
        at = self._folder / kind
        config = at.with_suffix(".conf")
        config.write_text(_AUTHORITY.format(folder=self._folder, kind=kind, host=host))
        at.with_suffix(".index").touch()
        key, request = at.with_suffix(".key"), at.with_suffix(".csr")
        self._openssl(
            f"req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config {config}"
            f" -subj /CN={host} -keyout {key} -out {request}"
        )
        self._openssl(
            f"ca -batch -selfsign -config {config} -keyfile {key} -in {request} -notext"
            f" -startdate {begin} -enddate {end} -out {self.path(kind)}"
        )

    def _openssl(self, words: str) -> None:
        openssl = shutil.which("openssl")
        assert openssl is not None
        subprocess.run([openssl, *words.split()], check=True, capture_output=True)
