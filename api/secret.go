package api

import (
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/secret"
	"github.com/ingot-cloud/ingot/store"
)

// seal returns the record that keeps a secret under a key of records.Secrets.
func (s *Server) seal(key, plain string) *privatev1.Sealed {
	return &privatev1.Sealed{Id: key, Value: s.ring.Seal("secret/"+key, secret.New(plain))}
}

// unseal returns the secret under a key; empty if there is none.
func (s *Server) unseal(r store.Reader, key string) (string, error) {
	sealed, ok := records.Secrets.Peek(r, key)
	if !ok {
		return "", nil
	}
	plain, err := s.ring.Open("secret/"+key, sealed.GetValue())
	return plain.Reveal(), err
}

// reseal returns the record for a secret, nil if it is what is kept already or
// empty: sealing the same again would be a write that changes nothing.
func (s *Server) reseal(r store.Reader, key, plain string) *privatev1.Sealed {
	if plain == "" {
		return nil
	}
	if was, err := s.unseal(r, key); err == nil && secret.New(was).Equal(secret.New(plain)) {
		return nil
	}
	return s.seal(key, plain)
}
