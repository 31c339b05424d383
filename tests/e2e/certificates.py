"""Certificates made with the openssl program: an authority, and what it signs.

    ca = Authority(tmp_path / "ca")
    worker = ca.issue("worker", names=["baton-worker"])       # worker.cert, worker.key: paths
"""
import pathlib
import subprocess


def _openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Pair:
    """A certificate and its key, in a directory that is replaced whole, as Kubernetes replaces its secrets."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.cert = self.directory / "tls.crt"
        self.key = self.directory / "tls.key"


class Authority:
    def __init__(self, directory, name="Baton test CA"):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True)
        self.cert = self.directory / "ca.crt"
        self._key = self.directory / "ca.key"
        self._serial = 0
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 30,
                 "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", self._key, "-out",
                 self.cert)

    def issue(self, name, names=(), days=30):
        """`names`: DNS names; loopback's addresses come with them."""
        self._serial += 1
        link = self.directory / name
        version = self.directory / f"{name}.{self._serial}"
        version.mkdir()
        pair = Pair(version)
        request, extensions = version / "request", version / "extensions"
        sans = [f"DNS:{dns}" for dns in names] + ["IP:127.0.0.1"]
        extensions.write_text(f"subjectAltName={','.join(sans)}\n")
        _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
                 "-keyout", pair.key, "-out", request)
        _openssl("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key, "-set_serial",
                 self._serial + 1000, "-days", days, "-extfile", extensions, "-out", pair.cert)
        # Both files change in one step.
        new = self.directory / f"{name}.link"
        new.symlink_to(version)
        new.rename(link)
        return Pair(link)
