"""The certificate by which those who connect know us: the user's, or one that is made here.

For one that is made, an authority is made that signs it and nothing else ever: its key is dropped.
So who believes this authority believes in us alone. Whatever is served is first tried as a client
would, in memory: what does not match is told at the start, and not by each worker.

`ssl` is imported where it is needed: most platforms listen on loopback, without TLS.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .._settings import Settings, StartError

if TYPE_CHECKING:
    import http.client
    import ssl

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)
_BY = "civis-futures local platform"
MAKER = "trustme"  # of the extra `tls`


@dataclass(frozen=True)
class Identity:
    """What we show to those who connect, and what they are to believe."""

    certificate: str  # a file
    private_key: str  # a file; perhaps the same one
    ca_certs: str  # PEM; public

    def server(self) -> ssl.SSLContext:
        """What the server speaks TLS with; StartError if the files are of no use."""
        import ssl

        def no_password() -> str:
            raise StartError(
                f"the key in {self.private_key} has a password, and nobody is there to type it: "
                "give one without, in a file that only you can read"
            )

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.private_key, no_password)
        except ssl.SSLError as error:
            raise StartError(
                f"the certificate in {self.certificate} and the key in {self.private_key} are not "
                f"a pair, or not in PEM's form ({error.reason or error})"
            ) from None
        except OSError as error:
            raise StartError(f"cannot read the certificate or its key: {error}") from None
        return context

    def check(self, host: str) -> None:
        """Shake hands with ourselves, as who believes our certificates and asks for `host`.

        Raises:
            StartError: nobody could.
        """
        import ssl

        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = self.server().wrap_bio(to_server, to_client, server_side=True)
        client = believing(self.ca_certs).wrap_bio(to_client, to_server, server_hostname=host)
        try:
            for end in (client, server) * 5:  # each speaks twice
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
        except ssl.SSLError as error:
            said = getattr(error, "verify_message", "") or str(error)
            raise StartError(
                f"nobody who asks for {host} would believe the certificate in {self.certificate}: "
                f"{said.rstrip('.')}. Give one that is for {host}, or none, to have one made"
            ) from None


def believing(ca_certs: str) -> ssl.SSLContext:
    """What a client speaks TLS with that believes these certificates, and no others.

    Each of them by itself: what signed it need not be there.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca_certs)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def connection(url: str, ca_certs: str | None) -> http.client.HTTPConnection:
    """For the owner's own requests; it believes these certificates, or speaks no TLS."""
    import http.client

    where = urlsplit(url).netloc
    if ca_certs is None:
        return http.client.HTTPConnection(where, timeout=10)
    return http.client.HTTPSConnection(where, timeout=10, context=believing(ca_certs))


def needs_maker(settings: Settings) -> bool:
    """Whether a certificate is to be made."""
    others = settings.advertise is not None and not settings.plain_http
    return others and settings.certificate is None


def identity(settings: Settings, folder: Path) -> Identity | None:
    """Who we are to those who connect; None without TLS. What is made is kept in `folder`.

    Raises:
        StartError: the user's certificate is of no use; the message says why.
    """
    host = settings.advertise
    if host is None or settings.plain_http:
        return None
    if settings.certificate is None or settings.private_key is None:
        return _made(host, folder / "tls")
    try:
        if os.stat(settings.private_key).st_mode & stat.S_IROTH:
            raise StartError(
                f"everybody on this machine can read the key in {settings.private_key}: "
                f"chmod o-r {shlex.quote(settings.private_key)}"
            )
        text = Path(settings.certificate).read_text("ascii", "replace")
    except OSError as error:
        raise StartError(f"cannot read the certificate or its key: {error}") from None
    # Nothing else: the file may hold the key as well.
    found = _CERTIFICATE.findall(text)
    if not found:
        raise StartError(f"there is no certificate in {settings.certificate}, in PEM's form")
    own = Identity(settings.certificate, settings.private_key, "".join(found))
    own.check(host)
    return own


def _made(host: str, folder: Path) -> Identity:
    """The one in the folder, as others know it from before a restart, if it is for this host."""
    server, authority = folder / "server.pem", folder / "authority.pem"
    try:
        if authority.exists():
            known = Identity(str(server), str(server), authority.read_text("ascii"))
            known.check(host)
            return known
    except (OSError, ValueError, StartError):
        pass  # made anew
    import trustme

    maker = trustme.CA(path_length=0, organization_name=_BY, organization_unit_name=host)
    try:
        leaf = maker.issue_cert(host, organization_name=_BY, organization_unit_name=host)
    except ValueError as error:  # of IDNA, which is stricter than the DNS
        raise StartError(
            f"no certificate can be made for the name {host} ({error}): advertise the IP address, "
            "or give a certificate"
        ) from None
    folder.mkdir(mode=0o700, exist_ok=True)
    leaf.private_key_and_cert_chain_pem.write_to_path(server)  # the umask keeps others out
    maker.cert_pem.write_to_path(authority)
    new = Identity(str(server), str(server), maker.cert_pem.bytes().decode("ascii"))
    new.check(host)
    return new
