package agent

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/ingot-cloud/ingot/fault"
)

// tokenID reads the id of a JWT (RFC 7519, section 4.1.7). The agent needs it
// to prove possession of its key; the control plane verifies the token.
func tokenID(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", fault.New(fault.Internal, "token", "is not a JWT", "")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fault.New(fault.Internal, "token", "has a payload that is not base64", "")
	}
	var claims struct {
		ID string `json:"jti"`
	}
	if err := json.Unmarshal(body, &claims); err != nil || claims.ID == "" {
		return "", fault.New(fault.Internal, "token", "has no id", "")
	}
	return claims.ID, nil
}

// nameOf turns an enum value into the word people read.
func nameOf(s, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(s, prefix)), "_", " ")
}
