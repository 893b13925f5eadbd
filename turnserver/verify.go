package turnserver

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/pion/stun/v4"

	"sotto/turncred"
)

// What a TURN request must be before pion sees it. pion answers a wrong password with 400, takes a
// nonce from any address, and signs no error: so all of that happens here, in the order of RFC 8489
// section 9.2.4 and RFC 8656.
//
//  1. No MESSAGE-INTEGRITY: 401. USERNAME, REALM or NONCE is missing: 400.
//  2. The nonce was not made for this client on this transport, or long ago: 438.
//  3. The credential is not one, is over, or did not sign the request: 401. Until here nobody has proved anything, and over UDP
//     the source may be forged: mayAnswer holds answers back.
//  4. Attributes that must be understood and are not: 420.
//  5. There is no allocation: 437. It is somebody else's: 441.
//  6. What the method asks for (RFC 8656 sections 7 to 12): 400, 403, 440, 442, 443, 508.
//
// What passes goes to pion in a form of our own (forPion). Its answers come back through
// frontend.WriteTo.

// nonces are bound to a client's transport address and to the transport: a signed request that
// somebody has seen is of no use from elsewhere. The key is new with each start; a client that
// comes with an older nonce is told 438, and asks again.
type nonces struct{ key [32]byte }

const (
	nonceLife = time.Hour // RFC 8656 section 5
	nonceMAC  = 12
)

func newNonces() *nonces {
	n := &nonces{}
	_, _ = rand.Read(n.key[:])
	return n
}

// nonce is 4 bytes of Unix time in seconds and a MAC, in base64.
func (n *nonces) nonce(f *frontend, t tuple, now time.Time) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(now.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(b, n.mac(f, t, b)...))
}

func (n *nonces) mac(f *frontend, t tuple, made []byte) []byte {
	mac := hmac.New(sha256.New, n.key[:])
	mac.Write(made)
	for _, at := range []netip.AddrPort{t.client, f.at(t)} {
		address := at.Addr().As16()
		mac.Write(address[:])
		mac.Write(binary.BigEndian.AppendUint16(nil, at.Port()))
	}
	mac.Write([]byte(f.transport))
	return mac.Sum(nil)[:nonceMAC]
}

func (n *nonces) valid(f *frontend, t tuple, nonce []byte, now time.Time) bool {
	b, err := base64.RawURLEncoding.DecodeString(string(nonce))
	if err != nil || len(b) != 4+nonceMAC {
		return false
	}
	age := now.Sub(time.Unix(int64(binary.BigEndian.Uint32(b)), 0))
	return age > -time.Minute && age < nonceLife && hmac.Equal(b[4:], n.mac(f, t, b[:4]))
}

// verify applies the six rules to a request and answers it if it breaks one.
func (f *frontend) verify() bool {
	e := &f.exchange
	if code := f.prove(); code != 0 {
		f.reject(code)
		return false
	}
	e.authentic = true
	switch code := f.refuse(); code {
	case 0:
		return true
	case stun.CodeForbidden:
		f.s.metrics.refusedPeer.Inc()
		f.reject(code)
	case stun.CodeAllocMismatch, stun.CodeWrongCredentials:
		f.s.metrics.refusedAllocation.Inc()
		f.reject(code)
	default:
		f.reject(code)
	}
	return false
}

// prove applies rules 1 to 3.
func (f *frontend) prove() stun.ErrorCode {
	e := &f.exchange
	switch {
	case e.integrity == 0:
		return stun.CodeUnauthorized
	case e.username == nil || e.realm == nil || e.nonce == nil:
		return stun.CodeBadRequest
	case !f.s.nonces.valid(f, e.tuple, e.nonce, f.s.now()):
		return stun.CodeStaleNonce
	case !f.authenticate():
		f.s.metrics.refusedAuth.Inc()
		return stun.CodeUnauthorized
	}
	return 0
}

// authenticate finds the credential that has signed the request.
//
// A credential lives for minutes, a call for hours. So an allocation goes on with the credential it
// was made with after that has expired, for a day at most: its own client, on its own 5-tuple, may
// refresh it and open peers. A new allocation always needs a valid one.
func (f *frontend) authenticate() bool {
	e := &f.exchange
	username := string(e.username)
	if string(e.realm) != f.s.cfg.Realm {
		return false
	}
	if r := e.relay; r != nil && e.method != stun.MethodAllocate && username == r.credential.username &&
		f.s.now().Sub(r.born) < credentialGrace && e.message.authentic(r.credential.key) {
		e.credential = r.credential
		return true
	}
	if key, known := (*f.s.named.Load())[username]; known {
		e.credential = credential{username: username, id: namedID(username), key: key}
		return e.message.authentic(key)
	}
	id, expiry, err := turncred.Parse(username)
	if err != nil || !f.s.cfg.tune.wall().Before(expiry) {
		return false
	}
	for _, secret := range *f.s.secrets.Load() {
		for _, password := range []string{
			turncred.Password(secret, username), turncred.PasswordSHA256(secret, username),
		} {
			key := turncred.Key(username, f.s.cfg.Realm, password)
			if e.message.authentic(key) {
				e.credential = credential{username: username, id: id, key: key}
				return true
			}
		}
	}
	return false
}

// refuse applies rules 4 to 6.
func (f *frontend) refuse() stun.ErrorCode {
	e := &f.exchange
	switch {
	case len(e.unknown) > 0:
		return stun.CodeUnknownAttribute
	case e.method == stun.MethodAllocate:
		return f.refuseAllocate()
	case e.relay == nil:
		return stun.CodeAllocMismatch
	case e.relay.credential.id != e.credential.id:
		return stun.CodeWrongCredentials
	case e.method == stun.MethodRefresh:
		if e.family != 0 && (e.family == familyIPv6) != e.relay.public.Addr().Is6() {
			return stun.CodePeerAddrFamilyMismatch // section 7.3
		}
		return 0
	case e.method == stun.MethodChannelBind && (len(e.peers) != 1 || e.peers[0].Port() == 0 || !f.mayBind(e.channel, e.peers[0])),
		len(e.peers) == 0:
		return stun.CodeBadRequest
	}
	for _, peer := range e.peers { // of all before the first is opened: obeyed whole or not at all (section 10.2)
		if code := f.refusePeer(peer); code != 0 {
			return code
		}
	}
	return f.refuseRoom()
}

// refuseAllocate is RFC 8656 section 7.2.
func (f *frontend) refuseAllocate() stun.ErrorCode {
	e := &f.exchange
	switch {
	case e.relay != nil:
		return 0 // a repeated request gets its answer again, another one 437: pion knows which it is
	case !e.transport:
		return stun.CodeBadRequest
	case e.protocol != protocolUDP:
		return stun.CodeUnsupportedTransProto
	case e.token && (e.even || e.family != 0 || e.additional != 0), e.additional != 0 && (e.family != 0 || e.additional != familyIPv6):
		return stun.CodeBadRequest
	case e.token, e.reserves:
		return stun.CodeInsufficientCapacity // there are no reservations
	case e.family != 0 && !f.hasFamily(e.family):
		return stun.CodeAddrFamilyNotSupported
	}
	return 0
}

// The address families and the transport of RFC 8656 section 18.
const (
	familyIPv4  = 1
	familyIPv6  = 2
	protocolUDP = 17
)

func (f *frontend) hasFamily(family byte) bool {
	_, ok := f.s.relayAddrFor(f.at(f.exchange.tuple).Addr(), family == familyIPv6)
	return ok && (family == familyIPv4 || family == familyIPv6)
}

// familyAsked is the family of the allocation to make: that asked for, or else IPv4 however the
// client came (RFC 8656 section 7.2), since its peers expect that; IPv6 only where there is no
// other.
func (f *frontend) familyAsked() byte {
	switch {
	case f.exchange.family != 0:
		return f.exchange.family
	case f.hasFamily(familyIPv4):
		return familyIPv4
	}
	return familyIPv6
}

// mayBind is RFC 8656 section 12.2: a number and a peer belong together until the channel is over.
// RFC 8656 ends the numbers at 0x4FFF and reserves the others; RFC 5766 had them to 0x7FFF, of
// which coturn's client takes any.
func (f *frontend) mayBind(number uint16, peer netip.AddrPort) bool {
	if number < 0x4000 || number > 0x7FFF {
		return false
	}
	at, to := f.exchange.relay.channel(number), f.exchange.relay.channelTo(peer)
	return at == to
}

func (f *frontend) refusePeer(peer netip.AddrPort) stun.ErrorCode {
	e := &f.exchange
	switch {
	case !f.s.policy.allows(peer.Addr()):
		return stun.CodeForbidden
	case peer.Addr().Is6() != e.relay.public.Addr().Is6():
		return stun.CodePeerAddrFamilyMismatch
	case !f.s.policy.isOwn(peer.Addr()):
		return 0
	case e.method == stun.MethodChannelBind && f.s.table.byPublic(peer) == nil,
		e.method == stun.MethodCreatePermission && !f.s.table.hasAnother(peer.Addr()):
		return stun.CodeForbidden
	}
	return 0
}

func (f *frontend) refuseRoom() stun.ErrorCode {
	e := &f.exchange
	another := e.method == stun.MethodChannelBind && e.relay.channel(e.channel) == nil
	if !e.relay.hasRoom(e.peers, another, f.s.now()) {
		return stun.CodeInsufficientCapacity
	}
	return 0
}

// reasons are those of RFC 8489 section 14.8 and RFC 8656 section 19.
var reasons = map[stun.ErrorCode]string{
	stun.CodeBadRequest: "Bad Request", stun.CodeUnauthorized: "Unauthorized", stun.CodeForbidden: "Forbidden",
	stun.CodeUnknownAttribute: "Unknown Attribute", stun.CodeAllocMismatch: "Allocation Mismatch",
	stun.CodeStaleNonce: "Stale Nonce", stun.CodeAddrFamilyNotSupported: "Address Family not Supported",
	stun.CodeWrongCredentials: "Wrong Credentials", stun.CodeUnsupportedTransProto: "Unsupported Transport Protocol",
	stun.CodePeerAddrFamilyMismatch: "Peer Address Family Mismatch", stun.CodeAllocQuotaReached: "Allocation Quota Reached",
	stun.CodeInsufficientCapacity: "Insufficient Capacity",
}

// reject answers with an error: signed, if the request was.
func (f *frontend) reject(code stun.ErrorCode) {
	e := &f.exchange
	b := f.failure(code, reasons[code])
	if !e.authentic && !f.mayAnswer(len(b)) {
		if b = f.failure(code, ""); !f.mayAnswer(len(b)) { // shorter, and so perhaps not too long for its question
			f.s.metrics.droppedSilenced.Inc()
			return
		}
	}
	f.tookAnswer()
	f.socket.write(b, e.tuple)
}

func (f *frontend) failure(code stun.ErrorCode, reason string) []byte {
	e := &f.exchange
	parts := []stun.Setter{
		stun.NewTransactionIDSetter([stun.TransactionIDSize]byte(e.raw[8:headerSize])),
		stun.NewType(e.method, stun.ClassErrorResponse),
		&stun.ErrorCodeAttribute{Code: code, Reason: []byte(reason)},
	}
	switch code {
	case stun.CodeUnauthorized, stun.CodeStaleNonce:
		parts = append(parts, stun.NewNonce(f.s.nonces.nonce(f, e.tuple, f.s.now())), stun.NewRealm(f.s.cfg.Realm))
	case stun.CodeUnknownAttribute:
		parts = append(parts, stun.UnknownAttributes(e.unknown))
	}
	if e.authentic {
		parts = append(parts, stun.MessageIntegrity(e.credential.key))
	}
	m, err := stun.Build(parts...)
	if err != nil { // nothing of it comes from outside
		f.s.log.Error("cannot write an answer", "error", err)
		return nil
	}
	return m.Raw
}

// pionLifetime bounds what pion is told: it grants what is asked for below an hour, and its default
// above. RFC 8656 section 7.2 wants at least the default.
func pionLifetime(asked, least time.Duration) time.Duration {
	return min(max(asked, least), time.Hour-time.Second)
}

// forPion writes a request as pion takes it: with the attributes that it reads, one of its own
// nonces, and signed again.
func (f *frontend) forPion() []byte {
	e := &f.exchange
	m := &stun.Message{Type: stun.NewType(e.method, e.class), TransactionID: [stun.TransactionIDSize]byte(e.raw[8:headerSize])}
	m.WriteHeader()
	m.Add(stun.AttrUsername, []byte(e.credential.username))
	m.Add(stun.AttrRealm, []byte(f.s.cfg.Realm))
	m.Add(stun.AttrNonce, []byte(f.pion.nonce))
	if e.method == stun.MethodAllocate {
		m.Add(stun.AttrRequestedTransport, []byte{protocolUDP, 0, 0, 0})
		m.Add(stun.AttrRequestedAddressFamily, []byte{f.familyAsked(), 0, 0, 0})
	}
	if e.hasLifetime {
		lifetime := e.lifetime
		if lifetime != 0 || e.method == stun.MethodAllocate { // Refresh with 0 ends the allocation
			lifetime = pionLifetime(lifetime, f.s.cfg.tune.shortest)
		}
		m.Add(stun.AttrLifetime, binary.BigEndian.AppendUint32(nil, uint32(lifetime/time.Second)))
	}
	if e.method == stun.MethodChannelBind {
		m.Add(stun.AttrChannelNumber, binary.BigEndian.AppendUint32(nil, uint32(e.channel)<<16))
	}
	for _, peer := range e.peers {
		at := stun.XORMappedAddress{IP: peer.Addr().AsSlice(), Port: int(peer.Port())}
		if at.AddToAs(m, stun.AttrXORPeerAddress) != nil {
			return nil
		}
	}
	if stun.MessageIntegrity(e.credential.key).AddTo(m) != nil {
		return nil
	}
	return m.Raw
}

// pionsNonce is a nonce that pion takes, which it tells nobody but who asks without one: so it is
// asked, in between.
type pionsNonce struct {
	nonce  string
	at     time.Time // when pion made it
	asking bool      // pion's next answer has it
	from   exchange  // that waits for it
}

// pionsNonceLife is below pion's hour.
const pionsNonceLife = 30 * time.Minute

// askPion lets pion tell a nonce before it gets the request of the exchange, which lies in a buffer
// that the question takes.
func (f *frontend) askPion() []byte {
	f.pion.asking, f.pion.from = true, f.exchange
	f.pion.from.raw = bytes.Clone(f.exchange.raw)
	f.pion.from.username, f.pion.from.realm, f.pion.from.nonce = nil, nil, nil
	f.exchange = exchange{tuple: f.pion.from.tuple}
	m, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest))
	if err != nil {
		return nil
	}
	return m.Raw
}

// toldNonce takes pion's answer to askPion.
func (f *frontend) toldNonce(b []byte) {
	m := &stun.Message{Raw: b}
	var nonce stun.Nonce
	if m.Decode() == nil && nonce.GetFrom(m) == nil {
		f.pion.nonce, f.pion.at = nonce.String(), time.Now()
	}
}

// clientAddr is what pion knows the client of the exchange by.
func (e *exchange) clientAddr() net.Addr {
	if e.relay != nil {
		return e.relay.clientAddr
	}
	return e.tuple.addr()
}
