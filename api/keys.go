package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/secret"
	"github.com/ingot-cloud/ingot/store"
)

// tokenKeyLife is how long a key signs tokens. It verifies as long as a token
// signed on its last day lives.
const tokenKeyLife = 365 * 24 * time.Hour

// claims are those of the v2 API. They say who; what the bearer may do stands
// in the token's record.
type claims struct {
	jwt.RegisteredClaims
	Type string `json:"type"`
}

// signingKey returns the key that signs now for a use: "token" or "wipe".
func signingKey(r store.Reader, use string, now time.Time) (*privatev1.Key, bool) {
	var newest *privatev1.Key
	for k := range records.Keys.Prefix(r, records.Key(use, "")) {
		if now.Before(k.GetRetired().AsTime()) && (newest == nil || newest.GetCreated().AsTime().Before(k.GetCreated().AsTime())) {
			newest = k
		}
	}
	return newest, newest != nil
}

// ensureTokenKey makes a key to sign tokens with if there is none or the last
// one has retired.
func (s *Server) ensureTokenKey(ctx context.Context) error {
	if _, ok := signingKey(s.db.Snapshot(), "token", s.cfg.Now()); ok {
		return nil
	}
	private, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		return err
	}
	return s.insertSigningKey(ctx, "token", private, tokenKeyLife, tokenKeyLife+access.MaxTokenLife)
}

// insertSigningKey stores a key for a use that signs for a time and counts for
// longer. Of two replicas, the second finds the key of the first.
func (s *Server) insertSigningKey(ctx context.Context, use string, private *ecdsa.PrivateKey, signs, counts time.Duration) error {
	id := newID()
	key, err := s.sealKey(use, id, private)
	if err != nil {
		return err
	}
	if key.Public, err = x509.MarshalPKIXPublicKey(private.Public()); err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *store.Tx) error {
		tx.Guard("key/" + use + "/")
		if _, ok := signingKey(tx, use, tx.Now()); ok {
			return nil
		}
		key.Created = timestamppb.New(tx.Now())
		key.Retired = timestamppb.New(tx.Now().Add(signs))
		key.Expires = timestamppb.New(tx.Now().Add(counts))
		return records.Keys.Insert(tx, key)
	})
}

// sealKey returns the record of a private key; what proves with it and the
// times are the caller's.
func (s *Server) sealKey(use, id string, private *ecdsa.PrivateKey) (*privatev1.Key, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	sealed := s.ring.Seal("key/"+use+"/"+id, secret.New(string(der)))
	return &privatev1.Key{Id: id, Use: use, Private: &privatev1.Sealed{Id: id, Value: sealed}}, nil
}

// openKey is the inverse of sealKey.
func (s *Server) openKey(k *privatev1.Key) (*ecdsa.PrivateKey, error) {
	object := "key/" + k.GetUse() + "/" + k.GetId()
	der, err := s.ring.Open(object, k.GetPrivate().GetValue())
	if err != nil {
		return nil, err
	}
	private, err := x509.ParsePKCS8PrivateKey([]byte(der.Reveal()))
	if err != nil {
		return nil, fault.Wrap(fault.Internal, object, "cannot be parsed", err)
	}
	return private.(*ecdsa.PrivateKey), nil
}

// sign returns the JWT of a stored token.
func (s *Server) sign(t *apiv2.Token) (string, error) {
	k, ok := signingKey(s.db.Snapshot(), "token", s.cfg.Now())
	if !ok {
		return "", fault.New(fault.Unavailable, "key for tokens", "not found", "try again")
	}
	private, err := s.openKey(k)
	if err != nil {
		return "", err
	}
	j := jwt.NewWithClaims(jwt.SigningMethodES512, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    s.cfg.URL,
			Audience:  jwt.ClaimStrings{s.cfg.URL},
			Subject:   t.GetUser(),
			ID:        t.GetUuid(),
			IssuedAt:  jwt.NewNumericDate(t.GetIssuedAt().AsTime()),
			NotBefore: jwt.NewNumericDate(t.GetIssuedAt().AsTime()),
			ExpiresAt: jwt.NewNumericDate(t.GetExpires().AsTime()),
		},
		Type: t.GetTokenType().String(),
	})
	j.Header["kid"] = k.GetId()
	return j.SignedString(private)
}

var errBadToken = fault.New(fault.Unauthenticated, "", "invalid token", "log in again")

// identify returns who sent a request. Without a token that is the zero Caller.
func (s *Server) identify(r store.Reader, header http.Header) (access.Caller, error) {
	value := header.Get("Authorization")
	if value == "" {
		return access.Caller{}, nil
	}
	scheme, raw, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return access.Caller{}, errBadToken
	}
	uuid, err := s.verify(r, strings.TrimSpace(raw))
	if err != nil {
		return access.Caller{}, err
	}
	return access.Identify(r, uuid, s.cfg.Now())
}

// A via is the port that a machine's call came through.
type via struct{ leaf, port string }

// vouched returns the port that a call with a machine's token came through, as
// the leaf vouches that passed it on. Without one, the token counts for
// nothing: it may have been carried away.
func (s *Server) vouched(r store.Reader, t *privatev1.Token, header http.Header) (via, error) {
	nobody := fault.New(fault.Denied, "", "rule port: no leaf vouches for where the machine's token is used", "a machine calls through the metal-boot of its leaf")
	raw := header.Get(ingotv1.LeafHeader)
	if raw == "" {
		return via{}, nobody
	}
	source, err := netip.ParseAddr(header.Get(ingotv1.SourceHeader))
	if err != nil {
		return via{}, nobody
	}
	uuid, err := s.verify(r, raw)
	if err != nil {
		return via{}, nobody
	}
	leaf, err := access.Identify(r, uuid, s.cfg.Now())
	if err != nil { // the machine can only wait until the leaf is enrolled again
		return via{}, fault.New(fault.Unavailable, "", "the leaf is not known to the control plane", "")
	}
	if leaf.Token.GetKind() != ingotv1.FarEnd_FAR_END_LEAF {
		return via{}, nobody
	}
	port, err := machine.Through(r, t, leaf.Token.GetFarEnd(), source)
	return via{leaf.Token.GetFarEnd(), port}, err
}

// verify returns the uuid of a token that we signed. Whether it still counts
// is not asked here.
func (s *Server) verify(r store.Reader, raw string) (uuid string, err error) {
	sum := sha256.Sum256([]byte(raw))
	if seen, ok := s.verified.get(sum); ok {
		if _, ok := records.Keys.Peek(r, records.Key("token", seen.key)); ok {
			return seen.token, nil
		}
	}
	var c claims
	var kid string
	parser := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodES512.Alg()}), jwt.WithoutClaimsValidation())
	_, err = parser.ParseWithClaims(raw, &c, func(j *jwt.Token) (any, error) {
		kid, _ = j.Header["kid"].(string)
		k, ok := records.Keys.Peek(r, records.Key("token", kid))
		if !ok {
			return nil, errBadToken
		}
		return x509.ParsePKIXPublicKey(k.GetPublic())
	})
	if err != nil || c.ID == "" {
		return "", errBadToken
	}
	s.verified.add(sum, verdict{token: c.ID, key: kid})
	return c.ID, nil
}

// verified remembers tokens whose signature is ours: P-521 is slow.
type verified struct {
	mu   sync.Mutex
	seen map[[sha256.Size]byte]verdict
}

type verdict struct{ token, key string }

const maxVerified = 16384

func (v *verified) get(sum [sha256.Size]byte) (verdict, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d, ok := v.seen[sum]
	return d, ok
}

func (v *verified) add(sum [sha256.Size]byte, d verdict) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen == nil || len(v.seen) >= maxVerified {
		v.seen = map[[sha256.Size]byte]verdict{}
	}
	v.seen[sum] = d
}
