"""Certificates for hosts and people, made with openssl: also such as ferryctl pki never makes."""
import datetime
import subprocess


class Authority:
    def __init__(self, folder, name="authority"):
        self._folder = folder
        self._name = name
        self.certificate = folder / f"{name}.crt"
        self._openssl("req", "-x509", *self._new_key(name), "-subj", f"/CN={name}", "-days", "2",
                      "-out", self.certificate, "-addext", "basicConstraints=critical,CA:TRUE")
        self.former_certificate = self.certificate.read_bytes()  # whatever becomes of the file

    def flags(self, name, roles=(), address=None, expired=False):
        """The three --tls-* flags of a party with a certificate of its own.

        Those that were made before under the same name are replaced.
        """
        stem = self._folder / f"{self._name}-{name}"
        names = [f"IP:{address}" if address else f"DNS:{name}"]
        names += [f"URI:ferry://{name}/{role}" for role in roles]
        extensions = stem.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={','.join(names)}\n")
        request, certificate, key = (stem.with_suffix(f".{ending}") for ending in
                                     ("csr", "crt", "key"))
        self._openssl("req", *self._new_key(name, "new"), "-subj", f"/CN={name}", "-out", request)
        self._sign(request, extensions, stem.with_suffix(".crt.new"), expired)
        stem.with_suffix(".key.new").rename(key)
        stem.with_suffix(".crt.new").rename(certificate)
        return ["--tls-ca", self.certificate, "--tls-cert", certificate, "--tls-key", key]

    def _sign(self, request, extensions, certificate, expired):
        if not expired:
            self._openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey",
                          self._key(self._name), "-CAcreateserial", "-days", "2", "-extfile",
                          extensions, "-out", certificate)
            return
        # Only the authority's book-keeping command can date a certificate back.
        (self._folder / "index.txt").write_text("")
        config = self._folder / "ca.cnf"
        config.write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={self._folder}/index.txt\npolicy=p\n"
            f"default_md=sha256\nnew_certs_dir={self._folder}\nrand_serial=yes\n"
            "[p]\ncommonName=supplied\n")
        now = datetime.datetime.now(datetime.timezone.utc)
        start, end = ((now - datetime.timedelta(days=days)).strftime("%Y%m%d%H%M%SZ")
                      for days in (2, 1))
        self._openssl("ca", "-batch", "-config", config, "-cert", self.certificate, "-keyfile",
                      self._key(self._name), "-in", request, "-extfile", extensions, "-startdate",
                      start, "-enddate", end, "-notext", "-out", certificate)

    def _key(self, name):
        return self._folder / f"{self._name}-{name}.key"

    def _new_key(self, name, ending=None):
        key = self._key(name)
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                key.with_suffix(f".key.{ending}") if ending else key]

    @staticmethod
    def _openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True,
                       timeout=60)
