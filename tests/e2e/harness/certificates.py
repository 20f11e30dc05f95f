"""Certificates for two hosts and a client, made with openssl."""
import subprocess


class Authority:
    def __init__(self, folder, name="authority"):
        self._folder = folder
        self._name = name
        self.certificate = folder / f"{name}.crt"
        self._openssl("req", "-x509", *self._new_key(name), "-subj", f"/CN={name}", "-days", "2",
                      "-out", self.certificate, "-addext", "basicConstraints=critical,CA:TRUE")

    def flags(self, name, address=None):
        """The three --tls-* flags of a party with a certificate of its own."""
        certificate = self._folder / f"{self._name}-{name}.crt"
        request = self._folder / f"{name}.csr"
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName=IP:{address}\n" if address else
                              f"subjectAltName=DNS:{name}\n")
        self._openssl("req", *self._new_key(name), "-subj", f"/CN={name}", "-out", request)
        self._openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey",
                      self._key(self._name), "-CAcreateserial", "-days", "2", "-extfile",
                      extensions, "-out", certificate)
        return ["--tls-ca", self.certificate, "--tls-cert", certificate, "--tls-key",
                self._key(name)]

    def _key(self, name):
        return self._folder / f"{self._name}-{name}.key"

    def _new_key(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                self._key(name)]

    @staticmethod
    def _openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True,
                       timeout=60)
