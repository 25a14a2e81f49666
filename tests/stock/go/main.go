// A client in Go with gRPC as it comes from its module proxy. It makes one call and prints OK and
// the reply, or the code of the status and its text. It has no generated code: request and reply
// are base64.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const timeout = 20 * time.Second

// raw passes bytes through.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (raw) Name() string { return "proto" }

func main() {
	address, rest := os.Args[1], os.Args[2:]
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	method := flags.String("method", "", "")
	encoded := flags.String("request", "", "")
	ca := flags.String("ca", "", "")
	cert := flags.String("cert", "", "")
	key := flags.String("key", "", "")
	token := flags.String("token", "", "")
	name := flags.String("server_name", "", "")
	must(flags.Parse(rest))

	credentials, err := transport(*ca, *cert, *key, *name)
	must(err)
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials))
	must(err)
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if *token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+*token)
	}
	request, err := base64.StdEncoding.DecodeString(*encoded)
	must(err)
	var reply []byte
	err = connection.Invoke(ctx, *method, &request, &reply, grpc.ForceCodec(raw{}))
	if err == nil {
		fmt.Println("OK: " + base64.StdEncoding.EncodeToString(reply))
		return
	}
	said := status.Convert(err)
	fmt.Println(word(said.Code()) + ": " + strings.Join(strings.Fields(said.Message()), " "))
}

func transport(ca, cert, key, name string) (credentials.TransportCredentials, error) {
	if ca == "" {
		return insecure.NewCredentials(), nil
	}
	authorities, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: name}
	config.RootCAs.AppendCertsFromPEM(authorities)
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		// It is shown whatever authorities the node names. Go would keep a foreign one to itself.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return credentials.NewTLS(config), nil
}

// word returns a code as the gRPC documents write it.
func word(code codes.Code) string {
	switch code {
	case codes.Unavailable:
		return "UNAVAILABLE"
	case codes.Unauthenticated:
		return "UNAUTHENTICATED"
	case codes.PermissionDenied:
		return "PERMISSION_DENIED"
	default:
		return strings.ToUpper(code.String())
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
