package main

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"

	"sotto/client"
)

// explain adds to an error of the client by which flag its reason is mended.
func explain(err error) error {
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown) && unknown.Cert != nil:
		return fmt.Errorf("%w: %q is trusted neither by this system nor by --ca; if the server's operator runs that authority, "+
			"get its certificate from them and give it once with --ca FILE", err, cmp.Or(unknown.Cert.Issuer.String(), unknown.Cert.Subject.String(), "its issuer"))
	case errors.Is(err, client.ErrAccountDeleted):
		return fmt.Errorf("%w; \"%s unregister\" removes it", err, self())
	case errors.Is(err, client.ErrPlain):
		return fmt.Errorf("%w, or allow it with --insecure-plain", err)
	}
	return err
}
