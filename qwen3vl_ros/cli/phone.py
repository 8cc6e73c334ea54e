"""What a phone needs to open the page: an address on the network, a token, a certificate, and a QR code."""

from __future__ import annotations

import datetime
import io
import ipaddress
import secrets
import socket
from pathlib import Path
from urllib.parse import quote

import segno
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_VALID = datetime.timedelta(days=1)
_NOWHERE = ("192.0.2.1", 9)
"""An address of RFC 5737 that nobody has: nothing is sent there, but the kernel says by which address it would go."""


class NoNetwork(Exception):
    """This machine has no address that a phone could reach."""


def network_address() -> str:
    """Return the IPv4 address of this machine on its network; raises NoNetwork where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        try:
            nobody.connect(_NOWHERE)
        except OSError as error:
            raise NoNetwork(
                f"This machine has no way to a network ({error.strerror}): connect it to the phone's, or give its "
                "address there: --phone ADDRESS."
            ) from error
        return str(nobody.getsockname()[0])


def make_certificate(address: str, directory: Path) -> tuple[Path, Path]:
    """Write a certificate for an IP address that signs itself, and its key, as PEM files; return their paths.

    Browsers give a page the camera over https alone, and no authority signs for addresses of a home network.

    Raises:
        ValueError: ``address`` is no IP address.
    """
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "qwen3vl_ros demo")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _VALID)  # the phone's clock may be behind
        .not_valid_after(now + _VALID)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "certificate.pem", directory / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


def new_token() -> str:
    """Return a token that nobody guesses, short enough for a QR code on a terminal."""
    return secrets.token_urlsafe(16)


def with_token(url: str, token: str) -> str:
    """Return the page's address with the token in its fragment, which browsers keep to themselves."""
    return f"{url}/#token={quote(token, safe='')}"


def qr_code(text: str) -> str:
    """Return a QR code as lines of block characters: as printed on a dark terminal, inverted on a light one."""
    lines = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(lines, compact=True)
    return lines.getvalue()
