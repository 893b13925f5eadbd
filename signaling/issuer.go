package signaling

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"sotto/sealedwire"
	"sotto/signaling/store"
	"sotto/wire"
)

// An issuer makes sender certificates, with which a device shows the recipients of its sealed messages who it is.
//
// Its keys are made at a server's first start and kept, for devices know the trust root. The file is
//
//	01 || trust root's private key [32] || server's private key [32] || server certificate
type issuer struct {
	sender *sealedwire.Issuer
	root   sealedwire.PublicKey
}

const (
	issuerVersion       = 1
	serverCertificateID = 1
	certificateHours    = 24
)

// openIssuer reads the file, and makes it if there is none. The caller holds the store's lock on the directory.
func openIssuer(path string) (*issuer, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		content = newIssuerFile()
		err = writeDurably(path, content)
	}
	if err != nil {
		return nil, fmt.Errorf("the keys of sender certificates: %w", err)
	}
	i, err := parseIssuer(content)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: restore it from a backup; or remove it, which makes new keys "+
			"and loses the sealed messages that still wait", path)
	}
	return i, nil
}

func newIssuerFile() []byte {
	root, server := sealedwire.GeneratePrivateKey(), sealedwire.GeneratePrivateKey()
	content := append([]byte{issuerVersion}, root.Marshal()...)
	content = append(content, server.Marshal()...)
	return append(content, root.Certify(serverCertificateID, server.Public()).Bytes()...)
}

// parseIssuer checks that the keys belong together, so that no damage goes unnoticed.
func parseIssuer(content []byte) (*issuer, error) {
	if len(content) < 1+2*32 || content[0] != issuerVersion {
		return nil, sealedwire.ErrMalformed
	}
	root, err := sealedwire.UnmarshalPrivateKey(content[1:33])
	if err != nil {
		return nil, err
	}
	server, err := sealedwire.UnmarshalPrivateKey(content[33:65])
	if err != nil {
		return nil, err
	}
	certificate, err := sealedwire.ParseServerCertificate(content[65:])
	if err != nil {
		return nil, err
	}
	if !certificate.Signed(root.Public()) {
		return nil, sealedwire.ErrCertificate
	}
	i, err := sealedwire.NewIssuer(server, certificate)
	if err != nil {
		return nil, err
	}
	return &issuer{i, root.Public()}, nil
}

// writeDurably leaves the whole file or none, also when the power fails.
func writeDurably(path string, content []byte) error {
	half := path + ".new"
	f, err := os.OpenFile(half, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(half, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// certificate says that a device has its identity key, which its link has proved. The expiry is a whole hour: to the second, it would
// tell recipients when the sender was last online.
func (i *issuer) certificate(d store.Device, now time.Time) (*wire.SenderCertificate, error) {
	sender := sealedwire.Sender{Account: d.Address.Account, Device: d.Address.Device, Identity: d.IdentityKey}
	expires := now.Add(certificateHours*time.Hour + time.Hour - 1).Truncate(time.Hour)
	c, err := i.sender.Issue(sender, expires)
	if err != nil {
		return nil, err
	}
	return &wire.SenderCertificate{Certificate: c.Bytes(), TrustRoot: i.root[:]}, nil
}

// syncDir makes a renaming durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // cannot sync a directory, and journals its names itself
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
